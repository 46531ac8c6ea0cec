"""What the memory of a trained agent does: how large it is, what it looks at, and what can be read from it.

E episodes are played side by side. The first is the one that is shown, step by step; from the states in all of them a
linear probe tells what was seen some steps ago, and the task's cue where `memrl.runner.cues` names one. Tasks that are
told from what is in sight need no memory: the same probe on the observation alone says how far that goes.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memrl.agents.rollout import environment_keys
from memrl.cores import core_name
from memrl.envs.flatten import flatten
from memrl.envs.wrappers import unwrapped
from memrl.errors import check
from memrl.experiment import Experiment
from memrl.runner.acting import Acting, acting_of, bare, state_of_seed
from memrl.runner.cues import cue_of
from memrl.runner.probes import Score, Targets, one_hot_targets, probe
from memrl.runner.recording import task_state
from memrl.runner.saved import SavedRun
from memrl.spaces import Dict, Discrete, MultiDiscrete, Space, Tuple
from memrl.types import Array, Key

_STREAM = 0x696E7369  # sets these episodes apart from those of training, evaluation and recordings
_KEPT_STEPS = 32  # steps at which the probes look at the states, spread over the episode
_MOST_ROWS = 2048  # states that one probe looks at
_MOST_NUMBERS = 1 << 26  # in all states that are kept, 256 MiB
_MOST_TARGETS = 64  # numbers of an observation that are told one by one
_FEWEST_EPISODES = 20  # for a probe to say something


@dataclasses.dataclass(frozen=True)
class InsightOptions:
    """Which episodes are played, and how far back the probe asks."""

    episode_seed: int = 0
    """Seed of the episodes; the first of them is shown."""
    max_steps: int = 200
    """Most steps of each."""
    episodes: int = 256
    """Number E of them; fewer where the states are so wide that those of all would not fit."""
    max_delay: int = 16
    """Most steps K ago that the probe asks for; half an episode where that is shorter."""
    greedy: bool = True
    """Take the most probable actions, rather than drawing them."""

    def __post_init__(self) -> None:
        """Raises `MemrlError` for a value out of range."""
        seed = self.episode_seed
        check(0 <= seed < 2**32, f"insight: episode_seed is {seed}, expected between 0 and {2**32 - 1}")
        for name, least in (("max_steps", 1), ("episodes", 1), ("max_delay", 0)):
            value = getattr(self, name)
            check(value >= least, f"insight: {name} is {value}, expected at least {least}")


class Trace(NamedTuple):
    """One episode of T steps, or its first T."""

    layers: tuple[str, ...]  # L names of cores
    norms: np.ndarray  # [T, L] Euclidean norm of each layer's state after it saw the observation; 0 without a state
    observations: np.ndarray  # [T, D] what the environment showed, flat, one-hot where it is discrete
    labels: tuple[str, ...]  # D
    actions: np.ndarray  # [T, ...] as the environment took them
    rewards: np.ndarray  # [T]
    ended: bool  # False where the episode goes on


class AttentionMap(NamedTuple):
    """What a layer looks at in that episode."""

    layer: int  # index into `Trace.layers`
    weights: np.ndarray  # [H, T, T] row t: the weights of steps s <= t; less than 1 in all where it looks elsewhere too


class Probe(NamedTuple):
    """What can be told from the states of all layers, on episodes that the probe has not seen; M questions."""

    target: str  # "observation", or the name of the task's cue
    measure: str  # "accuracy" or "R²"
    delays: np.ndarray  # [M] int: steps ago, of observations; steps since the episode began, of the cue
    score: np.ndarray  # [M] NaN where there was nothing to tell: it never varied
    error: np.ndarray  # [M] standard error of the score
    chance: np.ndarray  # [M] of always naming the most frequent class, or the mean
    sight: np.ndarray  # [M] of the same probe on the present observation alone
    episodes: int  # that were played


class Insight(NamedTuple):
    """All of it, of one seed."""

    trace: Trace
    attention: tuple[AttentionMap, ...]  # of the layers that attend
    observation: Probe
    cue: Probe | None  # None where none is named for the task


def look_inside(saved: SavedRun, seed_index: int = 0, options: InsightOptions = InsightOptions()) -> Insight:
    """What the memory of one of a run's seeds does, counted from 0.

    Raises:
        MemrlError: if the run has no such seed.
    """
    played = _play(saved, seed_index, options, options.episodes)
    return Insight(
        _trace(saved, played),
        _attention_maps(saved, seed_index, played),
        _probe_observation(saved, played, options),
        _probe_cue(saved, played),
    )


def trace_episode(saved: SavedRun, seed_index: int = 0, options: InsightOptions = InsightOptions()) -> Trace:
    """The `trace` of `look_inside` alone."""
    return _trace(saved, _play(saved, seed_index, options, 1))


def attention_maps(
    saved: SavedRun, seed_index: int = 0, options: InsightOptions = InsightOptions()
) -> tuple[AttentionMap, ...]:
    """The `attention` of `look_inside` alone."""
    return _attention_maps(saved, seed_index, _play(saved, seed_index, options, 1))


def probe_observation(saved: SavedRun, seed_index: int = 0, options: InsightOptions = InsightOptions()) -> Probe:
    """The `observation` of `look_inside` alone."""
    return _probe_observation(saved, _play(saved, seed_index, options, options.episodes), options)


def probe_cue(saved: SavedRun, seed_index: int = 0, options: InsightOptions = InsightOptions()) -> Probe | None:
    """The `cue` of `look_inside` alone."""
    return _probe_cue(saved, _play(saved, seed_index, options, options.episodes))


# Episodes.


class _Step(NamedTuple):
    """One step of E environments, small enough to keep for every step."""

    shown: Array  # [E, Y] the observation, flat; where that is long and continuous, _MOST_TARGETS mixtures of it
    cue: Any  # [E, ...] int, or None
    done: Array  # [E] bool, the episode ended with this step
    # Of the first environment:
    seen: Any  # what its network saw
    observation: Array  # [D]
    norms: Array  # [L]
    action: Array
    reward: Array


class _Played(NamedTuple):
    """E episodes of at most T steps, on the host; leaves of `steps` lead with T."""

    steps: _Step
    running: np.ndarray  # [T, E] bool, the step is of the first episode
    kept: np.ndarray  # [M] the steps whose states were kept
    states: np.ndarray  # [M, E, N] of all layers, after the observation


def _play(saved: SavedRun, seed_index: int, options: InsightOptions, episodes: int) -> _Played:
    acting = acting_of(saved, seed_index, options.greedy)
    width = jax.eval_shape(lambda w: _flat_layers(acting.start(w, 1).memory, 1), acting.weights)
    numbers = sum(x.size for x in width)
    fitting = max(_FEWEST_EPISODES, _MOST_NUMBERS // (2 * _KEPT_STEPS * max(1, numbers)))
    episodes = min(episodes, fitting)
    key = jax.random.fold_in(jax.random.key(options.episode_seed), _STREAM)
    env, env_params = bare(saved.assembly.env), saved.assembly.env_params
    observation, environment = jax.jit(jax.vmap(env.reset, (0, None)))(environment_keys(key, episodes), env_params)
    state, reward = acting.start(acting.weights, episodes), jnp.zeros(episodes)
    step = jax.jit(_step_function(saved, acting))
    running, steps, alive, states, stride = [], [], np.ones(episodes, bool), {}, 1
    for t in range(options.max_steps):
        now = (state, environment, observation, reward, np.bool_(t == 0))
        (state, environment, observation, reward), layers, kept = step(acting.weights, *now, jax.random.fold_in(key, t))
        running.append(alive)
        steps.append(jax.device_get(kept))
        if t % stride == 0:
            states[t] = np.concatenate(jax.device_get(layers), 1)
        if len(states) > _KEPT_STEPS:  # how long the episode is shows only at its end
            stride *= 2
            states = {t: x for t, x in states.items() if t % stride == 0}
        alive = alive & ~steps[-1].done
        if not alive.any():
            break
    stacked = jax.tree.map(lambda *xs: np.stack(xs), *steps)
    return _Played(stacked, np.stack(running), np.array(list(states)), np.stack(list(states.values())))


def _step_function(saved: SavedRun, acting: Acting) -> Any:
    """One step of E environments, to be jitted."""
    env, env_params = bare(saved.assembly.env), saved.assembly.env_params
    space = env.observation_space(env_params)
    cue = cue_of(unwrapped(env))
    width = jax.eval_shape(lambda x: flatten(space, x), _example(env, env_params)).size
    mixing = None
    if _classes(space) is None and width > _MOST_TARGETS:
        mixing = np.random.default_rng(0).normal(size=(width, _MOST_TARGETS)).astype(np.float32) / np.sqrt(width)

    def step(weights: Any, state: Any, environment: Any, observation: Any, reward: Array, start: Array, key: Key):
        episodes = reward.shape[0]
        keys = jax.vmap(jax.random.split)(environment_keys(key, episodes))
        reset = jnp.broadcast_to(start, (episodes,))
        inputs = {"observation": observation, "reset": reset, "reward": reward, "key": jax.random.key_data(key)}
        seen = acting.see(weights, state, inputs)
        state, action = acting.act(weights, state, inputs)
        layers = _flat_layers(state.memory, episodes)
        flat = jax.vmap(lambda x: flatten(space, x))(observation)
        hidden = None if cue is None else cue.of(task_state(env, environment))
        stepped = jax.vmap(env.step, (0, 0, 0, None))(keys[:, 0], environment, action, env_params)
        observation, environment, reward, terminated, truncated, _ = stepped
        kept = _Step(
            shown=flat if mixing is None else flat @ mixing,
            cue=hidden,
            done=terminated | truncated,
            seen=jax.tree.map(lambda x: x[0], seen),
            observation=flat[0],
            norms=jnp.stack([jnp.linalg.norm(layer[0]) for layer in layers]),
            action=action[0],
            reward=reward[0],
        )
        return (state, environment, observation, reward), layers, kept

    return step


def _example(env: Any, env_params: Any) -> Any:
    return jax.eval_shape(env.reset, jax.random.key(0), env_params)[0]


def _flat_layers(memory: tuple[Any, ...], episodes: int) -> list[Array]:
    """The state of each layer as numbers [E, N]; real and imaginary parts side by side."""
    return [_flat(layer, episodes) for layer in memory]


def _flat(layer: Any, episodes: int) -> Array:
    parts = [jnp.zeros((episodes, 0))]
    for x in jax.tree.leaves(layer):
        parts += [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    return jnp.concatenate([x.reshape(episodes, -1).astype(jnp.float32) for x in parts], 1)


# The shown episode.


def _trace(saved: SavedRun, played: _Played) -> Trace:
    T = int(played.running[:, 0].sum())
    env, env_params, _ = saved.assembly
    steps = jax.tree.map(lambda x: x[:T], played.steps)
    return Trace(
        layers=layer_names(saved.experiment),
        norms=steps.norms,
        observations=steps.observation,
        labels=tuple(_labels(bare(env).observation_space(env_params), "")),
        actions=steps.action,
        rewards=steps.reward,
        ended=bool(steps.done[-1, 0]),
    )


def layer_names(experiment: Experiment) -> tuple[str, ...]:
    """The core of each layer of the stack."""
    names = [core_name(core) for core in experiment.cores]
    layers = experiment.network.stack.layers or len(names)
    return tuple(names[i % len(names)] for i in range(layers))


def _labels(space: Space, name: str) -> list[str]:
    """A name for each number of a flat observation."""
    match space:
        case Discrete():
            return [f"{name} = {i}".strip() for i in range(space.n)]
        case MultiDiscrete():
            return [f"{name}[{i}] = {v}" for i, n in enumerate(space.sizes) for v in range(n)]
        case Dict():
            return [label for key, part in space.spaces.items() for label in _labels(part, f"{name} {key}".strip())]
        case Tuple():
            return [label for i, part in enumerate(space.spaces) for label in _labels(part, f"{name}[{i}]")]
    shape = space.shape  # type: ignore[attr-defined]
    return [f"{name}[{', '.join(map(str, place))}]" if shape else name for place in np.ndindex(*shape)]


def _attention_maps(saved: SavedRun, seed_index: int, played: _Played) -> tuple[AttentionMap, ...]:
    T = int(played.running[:, 0].sum())
    state = state_of_seed(saved, seed_index)

    @jax.jit
    def maps(state: Any, seen: Any) -> list[Array | None]:
        torso = saved.assembly.agent.network(state).actor
        resets = jnp.arange(T)[:, None] == 0
        return torso.memory.attention_maps(torso.encoder(jax.tree.map(lambda x: x[:, None], seen)), resets)

    found = maps(state, jax.tree.map(lambda x: x[:T], played.steps.seen))
    return tuple(
        AttentionMap(layer, np.asarray(weights[0]).swapaxes(0, 1))
        for layer, weights in enumerate(found)
        if weights is not None
    )


# Probes.


def _probe_observation(saved: SavedRun, played: _Played, options: InsightOptions) -> Probe:
    env, env_params = bare(saved.assembly.env), saved.assembly.env_params
    classes = _classes(env.observation_space(env_params))
    lengths = played.running.sum(0)
    longest = min(options.max_delay, int(np.median(lengths) - 1) // 2)
    # The same states answer for all delays, so that these can be compared.
    rows = [(m, e) for m, t in enumerate(played.kept) if t >= longest for e in np.flatnonzero(played.running[t])]
    rows = np.array(rows).reshape(-1, 2)
    chosen = np.random.default_rng(0).permutation(len(rows))[:_MOST_ROWS]
    m, e = rows[np.sort(chosen)].T
    t = played.kept[m]
    shown = np.asarray(played.steps.shown)
    delays = np.arange(longest + 1)
    targets = [Targets(shown[t - k, e], classes) for k in delays]
    scores = probe(played.states[m, e], targets, e)
    sight = probe(shown[t, e], targets, e)
    return _as_probe("observation", targets[0].measure, delays, scores, sight, played)


def _probe_cue(saved: SavedRun, played: _Played) -> Probe | None:
    cue = cue_of(unwrapped(saved.assembly.env))
    if cue is None:
        return None
    shown, labels = np.asarray(played.steps.shown), np.asarray(played.steps.cue)
    scores, sight, delays = [], [], []
    for m, t in enumerate(played.kept):
        running = np.flatnonzero(played.running[t])
        if len(running) < min(_FEWEST_EPISODES, played.running.shape[1]):
            continue
        targets = [one_hot_targets(labels[t, running])]
        scores += probe(played.states[m, running], targets, running)
        sight += probe(shown[t, running], targets, running)
        delays.append(t)
    return _as_probe(cue.name, "accuracy", np.array(delays), scores, sight, played)


def _as_probe(
    target: str, measure: str, delays: np.ndarray, scores: list[Score], sight: list[Score], played: _Played
) -> Probe:
    score, error, chance = np.array(scores).reshape(-1, 3).T
    in_sight = np.array([s.score for s in sight])
    return Probe(target, measure, delays, score, error, chance, in_sight, played.running.shape[1])


def _classes(space: Space) -> tuple[tuple[int, int], ...] | None:
    """Where the one-hot vectors of a flat observation are; None of a space with numbers."""
    sizes = _sizes(space)
    if sizes is None:
        return None
    ends = np.cumsum(sizes).tolist()
    return tuple(zip([0, *ends[:-1]], ends, strict=True))


def _sizes(space: Space) -> list[int] | None:
    match space:
        case Discrete():
            return [space.n]
        case MultiDiscrete():
            return list(space.sizes)
        case Dict() | Tuple():
            parts = space.spaces.values() if isinstance(space, Dict) else space.spaces
            sizes = [_sizes(part) for part in parts]
            return None if any(size is None for size in sizes) else [n for size in sizes for n in size or []]
    return None
