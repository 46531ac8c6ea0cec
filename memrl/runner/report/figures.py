"""The report's pictures for papers, PNG and SVG. Matplotlib takes long to import, hence inside of functions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memrl.runner.comparable import Task
from memrl.runner.pictures import COLORS, STYLES, steps_text
from memrl.runner.report.analysis import THRESHOLDS, Band, Findings
from memrl.runner.report.charts import COSTS, cost_of_labels
from memrl.runner.report.inside import Inside, axis_of, probe_band, probes_of
from memrl.runner.statistics import AGGREGATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#6b6b6b"
_WORSE_TO_BETTER = ("#e39a6b", "#f7f7f7", "#6aa9d8")
_FORMATS = ("png", "svg")
_COLUMNS = 3  # of the picture with all learning curves


def draw_pictures(findings: Findings, folder: Path, inside: Inside | None = None) -> list[Path]:
    """Writes all pictures to the folder and returns where; the same findings give the same bytes."""
    import matplotlib.style

    pictures: dict[str, Callable[[], Figure]] = {"learning_curves": lambda: _learning_curves(findings)}
    if findings.table.scores:
        pictures["aggregates"] = lambda: _aggregates(findings)
        pictures["profiles"] = lambda: _bands(
            findings,
            {label: Band(THRESHOLDS, y) for label, y in findings.profiles.items()},
            "normalised score",
            "share of runs above it",
        )
        pictures["sample_efficiency"] = lambda: _bands(
            findings, findings.efficiency, findings.efficiency_axis, "interquartile mean of scores"
        )
    if findings.improvement:
        pictures["improvement"] = lambda: _improvement(findings)
    if np.isfinite([list(costs.values()) for costs in cost_of_labels(findings).values()]).any():
        pictures["costs"] = lambda: _costs(findings)
    if inside is not None and inside.insights:
        pictures["memory"] = lambda: _probes(findings, inside)
    settings = {"svg.hashsalt": "memrl", "svg.fonttype": "none", "font.size": 9}
    paths = []
    with matplotlib.style.context(["default", settings]):
        for name, draw in pictures.items():
            figure = draw()
            for suffix in _FORMATS:
                metadata = {"Software": None} if suffix == "png" else {"Date": None}
                paths.append(folder / f"{name}.{suffix}")
                figure.savefig(paths[-1], dpi=150, metadata=metadata)
    return paths


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _learning_curves(findings: Findings) -> "Figure":
    """A panel for each task, one legend for all."""
    tasks = findings.comparison.tasks
    columns = min(_COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    legend_rows = -(-len(findings.order) // (2 * columns))
    figure = _figure(3.3 * columns if columns > 1 else 4.8, 2.4 * rows + 0.25 * legend_rows + 0.1)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, task in zip(panels, tasks, strict=False):
        _learning_panel(findings, axes, task)
    for axes in panels[len(tasks) :]:
        axes.set_axis_off()
    _legend(figure, findings, findings.order, 2 * columns)
    return figure


def _learning_panel(findings: Findings, axes: "Axes", task: Task) -> None:
    for label in findings.order:
        if (label, task) in findings.curves:
            _band(findings, axes, label, findings.curves[label, task])
    bounds = findings.comparison.bounds.get(task)
    for y in () if bounds is None else (bounds.zero, bounds.one):
        axes.axhline(y, color=_GREY, lw=0.8, ls=(0, (4, 3)), zorder=1)
    axes.set_title(task.name, fontsize=9, loc="left")
    _dress(axes, "environment steps", "episode return")
    axes.xaxis.set_major_formatter(steps_text)
    axes.set_xlim(left=0)


def _probes(findings: Findings, inside: Inside) -> "Figure":
    """A panel for each probe of each task, one legend for all."""
    found = {
        (task, kind): probes_of(inside, task, kind)
        for task in findings.comparison.tasks
        for kind in ("observation", "cue")
    }
    shown = {key: probes for key, probes in found.items() if probes}
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = _figure(3.6 * columns if columns > 1 else 4.8, 2.5 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, ((task, _), probes) in zip(panels, shown.items(), strict=False):
        first = next(iter(probes.values()))
        axes.plot(first.delays, first.sight, "--", color=_GREY, lw=1)
        axes.plot(first.delays, first.chance, ":", color=_GREY, lw=1)
        for label in findings.order:
            if label in probes:
                _band(findings, axes, label, probe_band(probes[label]))
        axes.set_title(f"{first.target}, {task.name}", fontsize=9, loc="left")
        _dress(axes, axis_of(first), f"{first.measure} of a probe")
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    _legend(figure, findings, findings.order, 3 * columns)
    return figure


def _bands(findings: Findings, bands: dict[str, Band], xlabel: str, ylabel: str) -> "Figure":
    labels = [label for label in findings.order if label in bands]
    figure = _figure(4.8, 3.0 + 0.25 * -(-len(labels) // 5))
    axes = figure.add_subplot()
    for label in labels:
        _band(findings, axes, label, bands[label])
    _dress(axes, xlabel, ylabel)
    if xlabel == "environment steps":
        axes.xaxis.set_major_formatter(steps_text)
    _legend(figure, findings, labels, 5)
    return figure


def _aggregates(findings: Findings) -> "Figure":
    """As rliable draws them: a column for each statistic, a line for each label."""
    labels = [label for label in findings.order if label in findings.table.scores]
    figure = _figure(9.0, 0.9 + 0.26 * len(labels))
    panels = figure.subplots(1, len(AGGREGATES), sharey=True)
    for axes, (name, results) in zip(panels, findings.aggregates.items(), strict=True):
        for i, label in enumerate(labels):
            value, low, high = results[label]
            color, _ = _style(findings, label)
            axes.plot([low, high], [i, i], color=color, lw=5, alpha=0.35, solid_capstyle="butt")
            axes.plot([value], [i], "|", color=color, ms=11, mew=2)
        _dress(axes, "", "")
        axes.set_title(name, fontsize=9)
        axes.grid(axis="x", color="#e8e8e8", lw=0.8)
        axes.grid(visible=False, axis="y")
        axes.locator_params(axis="x", nbins=4)
    _label_lines(panels[0], labels)
    return figure


def _costs(findings: Findings) -> "Figure":
    """A column for each cost, a line for each label."""
    values, labels = cost_of_labels(findings), list(findings.order)
    figure = _figure(9.0, 0.9 + 0.26 * len(labels))
    panels = figure.subplots(1, len(COSTS), sharey=True)
    for axes, (name, title) in zip(panels, COSTS.items(), strict=True):
        for i, label in enumerate(labels):
            axes.barh(i, values[label][name], color=_style(findings, label)[0], height=0.6)
        _dress(axes, "", "")
        axes.set_title(title, fontsize=9)
        axes.grid(axis="x", color="#e8e8e8", lw=0.8)
        axes.grid(visible=False, axis="y")
        axes.locator_params(axis="x", nbins=3)
        axes.xaxis.set_major_formatter(steps_text)
    _label_lines(panels[0], labels)
    return figure


def _improvement(findings: Findings) -> "Figure":
    """A line for each label, a column for each of the others: bold where the interval leaves out one half."""
    from matplotlib.colors import LinearSegmentedColormap

    labels = [label for label in findings.order if label in findings.table.scores]
    values = np.full((len(labels),) * 2, np.nan)
    figure = _figure(1.8 + 0.5 * len(labels), 1.2 + 0.34 * len(labels))
    axes = figure.add_subplot()
    for i, first in enumerate(labels):
        for j, second in enumerate(labels):
            if (first, second) in findings.improvement:
                value, low, high = findings.improvement[first, second]
                values[i, j] = value
                weight = "bold" if low > 0.5 or high < 0.5 else "normal"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, weight=weight)
    axes.imshow(values, cmap=LinearSegmentedColormap.from_list("", _WORSE_TO_BETTER), vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("probability that a run of the line beats one of the column", fontsize=9, loc="left")
    return figure


def _band(findings: Findings, axes: "Axes", label: str, band: Band) -> None:
    color, dash = _style(findings, label)
    marker = "o" if len(band.x) == 1 else ""
    axes.plot(band.x, band.y.value, dash, color=color, lw=1.4, label=label, marker=marker)
    axes.fill_between(band.x, band.y.low, band.y.high, color=color, alpha=0.16, lw=0)


def _style(findings: Findings, label: str) -> tuple[str, str]:
    """The same colour and dash as on the page."""
    i = findings.comparison.labels.index(label)
    return COLORS[i % len(COLORS)], STYLES[i // len(COLORS) % len(STYLES)]


def _dress(axes: "Axes", xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, color=_GREY)
    axes.set_ylabel(ylabel, color=_GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(colors=_GREY, length=3)
    axes.grid(axis="y", color="#e8e8e8", lw=0.8)
    axes.set_axisbelow(True)


def _label_lines(axes: "Axes", labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, colors="black")


def _legend(figure: "Figure", findings: Findings, labels: Sequence[str], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for label in labels:
        color, dash = _style(findings, label)
        handles.append(Line2D([], [], color=color, ls=dash, lw=1.8, label=label))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(columns, len(handles)),
        frameon=False,
        handlelength=1.8,
        columnspacing=1.2,
    )
