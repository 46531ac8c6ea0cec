"""Learning curves as pictures. Matplotlib takes half a second to import, hence inside the functions."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from memrl.errors import check
from memrl.runner.metrics import RETURN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#000000")
STYLES = ("-", "--", ":", "-.")
_GREY = "#6b6b6b"
_BANDS = {"range": (0, 100), "quartiles": (25, 75)}
_SPREADS = {"range": "min-max range", "quartiles": "quartiles"}


class Curve(NamedTuple):
    """Returns over the course of training."""

    env_steps: np.ndarray  # [n] increasing, environment steps per seed
    returns: np.ndarray  # [n, S], NaN where no episode ended


def curve_from_metrics(metrics: Mapping[str, np.ndarray], name: str = RETURN) -> Curve:
    """The `Curve` of one metric in the output of `read_metrics`; `MemrlError` if it is not there."""
    check(name in metrics, f"no metric {name!r} to draw: known: {', '.join(metrics)}")
    return Curve(metrics["env_steps"], metrics[name])


def learning_curve(
    path_png: Path,
    curves: Mapping[str, Curve],
    title: str = "",
    *,
    references: Mapping[str, float] | None = None,
    band: Literal["range", "quartiles"] = "range",
    window: int = 1,
    ylabel: str = "episode return",
) -> None:
    """Draws the mean over seeds of every curve, and a band that shows their spread, to a PNG file.

    Each seed is averaged over its last `window` points, then joined linearly over gaps. `references` are
    horizontal lines, such as the best possible return. The same input gives the same bytes.
    """
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check(window >= 1, f"window={window}: must be at least 1")
    temporary = path_png.with_name(f"{path_png.name}.tmp")
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for i, (label, curve) in enumerate(curves.items()):
            _draw(axes, i, label, curve, _BANDS[band], window)
        _draw_references(axes, references or {})
        _dress(axes, title, ylabel, _note(curves, band, window))
        if len(curves) > 1:
            _legend(axes)
        canvas.print_png(temporary, metadata={"Software": None})
    temporary.replace(path_png)


def smoothed(returns: np.ndarray, window: int) -> np.ndarray:
    """Mean of the known values among the last `window` rows, for every row of returns `[n, S]`."""
    known = ~np.isnan(returns)
    total = _trailing_sum(np.where(known, returns, 0.0), window)
    number = _trailing_sum(known.astype(float), window)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0.5)


def joined(env_steps: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Returns `[n, S]` with the gaps inside each seed's curve closed linearly; its ends stay NaN."""
    result = np.array(returns, float)
    for column in result.T:
        known = ~np.isnan(column)
        if known.any():
            column[:] = np.interp(env_steps, env_steps[known], column[known], left=np.nan, right=np.nan)
    return result


def steps_text(steps: float, _position: float = 0) -> str:
    """A tick of the steps' axis: 0, 500k, 1.5M, 2B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(steps) >= size:
            return f"{steps / size:.4g}{unit}"
    return f"{steps:.4g}"


def _trailing_sum(values: np.ndarray, window: int) -> np.ndarray:
    # Sums of slices, not differences of running sums: those would leak rounding from far away.
    padded = np.concatenate([np.zeros((window - 1, values.shape[1])), values])
    if not len(values):
        return values
    return np.lib.stride_tricks.sliding_window_view(padded, window, axis=0).sum(axis=-1)


def _draw(axes: "Axes", i: int, label: str, curve: Curve, percentiles: tuple[int, int], window: int) -> None:
    returns = joined(curve.env_steps, smoothed(np.asarray(curve.returns, float), window))
    shown = ~np.isnan(returns).all(axis=1)
    steps, returns = np.asarray(curve.env_steps)[shown], returns[shown]
    if not len(steps):
        return
    color, style = COLORS[i % len(COLORS)], STYLES[i // len(COLORS) % len(STYLES)]
    marker = "o" if len(steps) == 1 else ""
    axes.plot(steps, np.nanmean(returns, axis=1), style, label=label, color=color, lw=1.8, marker=marker)
    if returns.shape[1] > 1:
        low, high = np.nanpercentile(returns, percentiles, axis=1)
        axes.fill_between(steps, low, high, color=color, alpha=0.18, lw=0)


def _draw_references(axes: "Axes", references: Mapping[str, float]) -> None:
    for label, value in references.items():
        axes.axhline(value, color=_GREY, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            label, (1, value), (-4, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="bottom", color=_GREY, fontsize=8.5,
        )  # fmt: skip


def _dress(axes: "Axes", title: str, ylabel: str, note: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, pad=24 if note else 10)
    axes.annotate(
        note, (0, 1), (0, 9), xycoords="axes fraction", textcoords="offset points",
        color=_GREY, fontsize=9, in_layout=False,
    )  # fmt: skip
    axes.set_xlabel("environment steps", color=_GREY)
    axes.set_ylabel(ylabel, color=_GREY)
    axes.xaxis.set_major_formatter(steps_text)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(colors=_GREY, length=3)
    axes.grid(axis="y", color="#e8e8e8", lw=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02, y=0.08)
    axes.set_xlim(left=0)


def _legend(axes: "Axes") -> None:
    """Beside the axes, in the order in which the curves end."""
    lines = sorted(axes.get_lines(), key=lambda line: -float(np.asarray(line.get_ydata())[-1]))
    lines = [line for line in lines if not str(line.get_label()).startswith("_")]
    axes.legend(handles=lines, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9.5)


def _note(curves: Mapping[str, Curve], band: str, window: int) -> str:
    """What is drawn, in words: a picture must say what its band is."""
    seeds = sorted({curve.returns.shape[1] for curve in curves.values()})
    parts = []
    if seeds and seeds[-1] > 1:
        number = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"
        parts.append(f"mean and {_SPREADS[band]} of {number} seeds")
    if window > 1:
        parts.append(f"each averaged over {window} points")
    return "; ".join(parts)
