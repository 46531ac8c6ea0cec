"""An episode as a GIF: the environment, and beside it what the agent makes of it."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from memrl.envs import make_env
from memrl.envs.wrappers import unwrapped
from memrl.errors import MemrlError, check
from memrl.runner.drawings import Drawing, drawing_of
from memrl.runner.recording import Actor, Episode, random_actor, record, trained_actor
from memrl.runner.saved import load_saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

_MAX_FPS = 50.0  # viewers show faster GIFs at a speed of their own
_LAST_FRAME_MS = 1500  # so that the end can be seen before it begins again
_MAX_LABELS = 16  # actions beyond that have no room for a word each
_BLUE = "#0072B2"
_ORANGE = "#D55E00"
_GREY = "#6b6b6b"


@dataclasses.dataclass(frozen=True)
class RecordingOptions:
    """Which episode is recorded, and how it is shown."""

    seed: int = 0
    """Seed of the episode; neither training nor evaluation plays it."""
    sampled: bool = False
    """Draw the agent's actions from its policy, rather than taking the most probable ones."""
    max_steps: int = 200
    """Most steps of the episode that are recorded, a frame each."""
    fps: float = 5.0
    """Frames per second."""

    def __post_init__(self) -> None:
        """Raises `MemrlError` for a value out of range."""
        check(0 <= self.seed < 2**32, f"play: seed is {self.seed}, expected between 0 and {2**32 - 1}")
        check(self.max_steps >= 1, f"play: max_steps is {self.max_steps}, expected at least 1")
        check(0.1 <= self.fps <= _MAX_FPS, f"play: fps is {self.fps}, expected between 0.1 and {_MAX_FPS:g}")


def play_run(
    run: Path, env: str | None, out: Path | None, options: RecordingOptions, *, overwrite: bool = False
) -> Path:
    """Writes an episode of a run's first seed, as its last checkpoint plays it, and returns where.

    Args:
        run: the run folder.
        env: the run's environment, to be checked, or None.
        out: the GIF, or None for `episode.gif` in the run folder.
        options: which episode.
        overwrite: replace the GIF where there is one.

    Raises:
        MemrlError: if there is no such run, it has another environment, that cannot be drawn, or the GIF cannot be
            written.
    """
    out = run / "episode.gif" if out is None else out
    if run.is_dir():  # else there is more to say than where the GIF does not go
        _check_output(out, overwrite)
    experiment, assembly, update, states = load_saved(run)
    check(env in (None, experiment.env), f"play: env is {env}, expected {experiment.env}, the environment of {run}")
    state = jax.tree.map(lambda x: x[0], states)
    actor = trained_actor(assembly, state, greedy=not options.sampled)
    policy = "sampled" if options.sampled else "greedy"
    title = f"{experiment.env}, {policy} after update {update}"
    _write_episode(out, assembly.env, assembly.env_params, actor, experiment.env, title, options)
    return out


def play_random(
    env: str, env_options: Mapping[str, Any], out: Path | None, options: RecordingOptions, *, overwrite: bool = False
) -> Path:
    """Writes an episode of random actions, and returns where; see `play_run`. `out` is `<name>.gif` when not given."""
    out = Path(f"{env.rpartition('/')[2]}.gif") if out is None else out
    _check_output(out, overwrite)
    made, params = make_env(env, **env_options)
    _write_episode(out, made, params, random_actor(made, params), env, f"{env}, random actions", options)
    return out


def _write_episode(
    out: Path, env: Any, env_params: Any, actor: Actor, name: str, title: str, options: RecordingOptions
) -> None:
    drawing = drawing_of(unwrapped(env), env_params, name)
    episode = record(env, env_params, actor, options.seed, options.max_steps)
    write_gif(out, episode, drawing, title, options.fps)


def _check_output(path: Path, overwrite: bool) -> None:
    """Raises `MemrlError` unless a GIF can be written to `path`, before time is spent on making it."""
    check(path.suffix.lower() == ".gif", f"play: out is {path}, expected a name ending in .gif")
    check(not path.is_dir(), f"play: out {path} is a folder, expected a file")
    check(overwrite or not path.exists(), f"play: out {path} exists, expected a new file, or --overwrite")
    check(path.parent.is_dir(), f"play: out is {path}, but {path.parent} is not a folder, expected one that exists")
    check(os.access(path.parent, os.W_OK), f"play: out is {path}, but folder {path.parent} cannot be written to")


def write_gif(path: Path, episode: Episode, drawing: Drawing, title: str, fps: float) -> None:
    """Writes T + 1 frames to `path`, one for each state; the last one is the end.

    Raises:
        MemrlError: if the file cannot be written.
    """
    pictures, duration = frames(episode, drawing, title), round(1000 / fps)
    durations = [duration] * len(episode.actions) + [max(_LAST_FRAME_MS, duration)]
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        next(pictures).save(temporary, "GIF", save_all=True, append_images=pictures, duration=durations, loop=0)
        temporary.replace(path)
    except OSError as error:
        raise MemrlError(f"play: out {path} cannot be written: {error.strerror or error}") from error


def frames(episode: Episode, drawing: Drawing, title: str) -> Iterator["Image"]:
    """The pictures of an episode's states, of 256 colours each; the same episode gives the same pictures."""
    import matplotlib.style
    import PIL.Image
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.style.context("default"):
        figure = Figure(figsize=(8, 4.2), dpi=100)
        canvas = FigureCanvasAgg(figure)
        for i in range(len(episode.states)):
            figure.clear()
            _compose(figure, episode, drawing, title, i)
            canvas.draw()
            picture = PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
            yield picture.quantize(256, dither=PIL.Image.Dither.NONE)


def _compose(figure: "Figure", episode: Episode, drawing: Drawing, title: str, i: int) -> None:
    """The i-th frame: a line of numbers, the environment on the left, the agent on the right."""
    figure.text(0.03, 0.925, title, fontsize=12, weight="bold", color="#222222")
    figure.text(0.03, 0.865, _numbers(episode, i), fontsize=9.5, color=_GREY)
    scene = figure.add_axes((0.03, 0.06, 0.62, 0.77))
    scene.set_axis_off()
    drawing.draw(scene, episode, i)
    known = episode.values is not None
    if episode.probabilities is not None:
        _draw_probabilities(figure.add_axes((0.75, 0.40 if known else 0.12, 0.2, 0.5 if known else 0.78)), episode,
                            drawing.actions, i)  # fmt: skip
    else:
        figure.text(0.75, 0.865, _action_text(episode, i), fontsize=9.5, color=_GREY)
    if known:
        _draw_values(figure.add_axes((0.75, 0.12, 0.2, 0.17)), episode, i)


def _numbers(episode: Episode, i: int) -> str:
    steps = len(episode.actions)
    end = "   end" if i == steps and episode.ended else "   (goes on)" if i == steps else ""
    reward = f"   reward {episode.rewards[i - 1] + 0.0:.3g}" if i else ""
    return f"step {i}{reward}   return {episode.returns[i]:.3g}{end}"


def _action_text(episode: Episode, i: int) -> str:
    if i == len(episode.actions):
        return ""
    action = np.ravel(episode.actions[i])
    return "action " + ", ".join(str(a) if np.issubdtype(action.dtype, np.integer) else f"{a:+.2f}" for a in action)


def _draw_probabilities(axes: "Axes", episode: Episode, words: tuple[str, ...], i: int) -> None:
    """A bar for each action, the one that is taken filled; none at the end."""
    assert episode.probabilities is not None
    count = episode.probabilities.shape[1]
    few = count <= _MAX_LABELS
    axes.set(xlim=(0, 1 if few else 1.05 * episode.probabilities.max()), ylim=(max(count, 4) - 0.4, -0.6))
    axes.locator_params(axis="x", nbins=2)
    axes.set_title("probability of each action", loc="left", fontsize=9.5, color=_GREY)
    if few:
        axes.set_yticks(range(count), words or [str(a) for a in range(count)])
    if i < len(episode.actions):
        colors = [_ORANGE if a == episode.actions[i] else "#a9cbe2" for a in range(count)]
        axes.barh(range(count), episode.probabilities[i], height=0.8, color=colors)
    _dress(axes)
    if few and words and max(map(len, words)) == 1:  # symbols of suits, too small for the size of words
        axes.tick_params(axis="y", labelsize=13)


def _draw_values(axes: "Axes", episode: Episode, i: int) -> None:
    """The value so far, on an axis that stays the same for the whole episode."""
    values = episode.values
    assert values is not None
    shown = values[: i + 1]
    low, high = min(0.0, float(np.nanmin(values))), max(0.0, float(np.nanmax(values)))
    margin = 0.1 * (high - low) or 1.0
    axes.set(xlim=(0, max(len(values) - 1, 1)), ylim=(low - margin, high + margin))
    axes.axhline(0, color="#dddddd", lw=0.8)
    axes.plot(shown, color=_BLUE, lw=1.6)
    axes.plot([len(shown) - 1], shown[-1:], "o", color=_BLUE, ms=4, clip_on=False)
    axes.set_title(f"value {shown[-1]:.3g}", loc="left", fontsize=9.5, color=_GREY)
    axes.set_xlabel("step", fontsize=8, color=_GREY, labelpad=1)
    axes.locator_params(integer=True, axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=3)
    _dress(axes)


def _dress(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(colors=_GREY, length=3, labelsize=8.5)
