"""The charts of the page, as plotly's figures: plain dictionaries, arrays packed as base64.

Colours are names that the page resolves for its light or dark appearance: "@3" is the fourth of the palette, "@3/0.2"
the same at a fifth of its strength, "@muted" and the like are the page's own. A trace's `name` is its label; what the
legend hides goes by it.
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from memrl.runner.comparable import Task
from memrl.runner.pictures import COLORS
from memrl.runner.report.analysis import THRESHOLDS, Band, Findings
from memrl.runner.statistics import AGGREGATES, Estimate

Chart = dict[str, Any]  # "data", "layout" and "height" in pixels
_DASHES = ("solid", "dash", "dot", "dashdot")
_TYPES = {"float64": "f8", "float32": "f4", "int64": "i4", "int32": "i4", "uint8": "u1"}
COSTS = {
    "parameters": "parameters",
    "state_bytes": "state, bytes",
    "env_steps_per_second": "steps per second",
    "compile_seconds": "compiling, s",
}


def packed(values: np.ndarray) -> dict[str, str]:
    """An array as plotly.js reads it without parsing numbers; float64 becomes float32."""
    values = np.ascontiguousarray(values)
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    if values.dtype == np.int64:
        fits = not values.size or np.abs(values).max() < 2**31
        values = values.astype(np.int32 if fits else np.float32)
    spec = {"dtype": _TYPES[values.dtype.name], "bdata": base64.b64encode(values.tobytes()).decode()}
    return spec if values.ndim == 1 else {**spec, "shape": ", ".join(map(str, values.shape))}


def learning_chart(findings: Findings, task: Task) -> Chart:
    """Mean returns of training with their intervals, and the known returns as lines."""
    data: list[dict[str, Any]] = []
    for label in _present(findings, task):
        data += band_traces(findings, label, findings.curves[label, task], "return")
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": "environment steps"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "episode return"}},
    }
    bounds = findings.comparison.bounds.get(task)
    if bounds is not None:
        layout |= _references({"best": bounds.one, bounds.zero_name: bounds.zero})
    return {"data": data, "layout": layout, "height": 300}


def aggregate_chart(findings: Findings) -> Chart:
    """A column for each statistic, a line for each label, the best on top."""
    labels = [label for label in findings.order if label in findings.table.scores]
    layout: dict[str, Any] = {"yaxis": _label_axis(labels), "margin": {"l": 110}}
    data = []
    for i, (name, results) in enumerate(findings.aggregates.items(), start=1):
        suffix = "" if i == 1 else str(i)
        better = "less is better" if name == "optimality gap" else ""
        layout[f"xaxis{suffix}"] = _column(i, len(AGGREGATES), f"{name}<br><sub>{better or 'more is better'}</sub>")
        for label in labels:
            data.append(_dot(findings, label, results[label], f"x{suffix}", name))
    return {"data": data, "layout": layout, "height": 110 + 26 * len(labels)}


def cost_chart(findings: Findings) -> Chart | None:
    """Sizes and speeds of each label, each a mean over its tasks; None where no run knows its own."""
    values = cost_of_labels(findings)
    shown = {name: title for name, title in COSTS.items() if any(np.isfinite(v[name]) for v in values.values())}
    if not shown:
        return None
    labels = list(findings.order)
    layout: dict[str, Any] = {"yaxis": _label_axis(labels), "margin": {"l": 110}}
    data = []
    for i, (name, title) in enumerate(shown.items(), start=1):
        suffix = "" if i == 1 else str(i)
        layout[f"xaxis{suffix}"] = {**_column(i, len(shown), title), "rangemode": "tozero", "nticks": 4}
        for label in labels:
            if np.isfinite(values[label][name]):
                exact = Estimate(*[np.asarray(values[label][name])] * 3)
                data.append(_dot(findings, label, exact, f"x{suffix}", title))
    return {"data": data, "layout": layout, "height": 110 + 26 * len(labels)}


def cost_of_labels(findings: Findings) -> dict[str, dict[str, float]]:
    """Means over tasks of the facts, NaN where none is known."""
    rows = {label: [row.facts for row in findings.rows if row.entry.label == label] for label in findings.order}
    return {label: {name: _known_mean(f[name] for f in facts) for name in COSTS} for label, facts in rows.items()}


def profile_chart(findings: Findings) -> Chart:
    """The share of runs above each score."""
    data: list[dict[str, Any]] = []
    for label in findings.order:
        if label in findings.profiles:
            data += band_traces(findings, label, Band(THRESHOLDS, findings.profiles[label]), "share of runs", "hv")
    layout = {
        "xaxis": {"title": {"text": "normalised score τ"}, "range": [0, 1]},
        "yaxis": {"title": {"text": "share of runs with a score above τ"}, "range": [-0.02, 1.02]},
    }
    return {"data": data, "layout": layout, "height": 340}


def efficiency_chart(findings: Findings) -> Chart:
    """The interquartile mean over the course of training."""
    data: list[dict[str, Any]] = []
    for label in findings.order:
        if label in findings.efficiency:
            data += band_traces(findings, label, findings.efficiency[label], "interquartile mean")
    layout = {
        "xaxis": {"title": {"text": findings.efficiency_axis}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "interquartile mean of scores"}},
    }
    return {"data": data, "layout": layout, "height": 340}


def improvement_chart(findings: Findings) -> Chart:
    """Rows against columns: the probability that the row's runs beat the column's."""
    labels = [label for label in findings.order if label in findings.table.scores]
    values = np.full((len(labels), len(labels)), np.nan)
    hover = [["" for _ in labels] for _ in labels]
    text = [["" for _ in labels] for _ in labels]
    for i, first in enumerate(labels):
        for j, second in enumerate(labels):
            if (first, second) in findings.improvement:
                value, low, high = findings.improvement[first, second]
                values[i, j] = value
                sure = low > 0.5 or high < 0.5
                text[i][j] = f"<b>{value:.2f}</b>" if sure else f"{value:.2f}"
                hover[i][j] = f"P({first} > {second}) = {value:.2f} [{low:.2f}, {high:.2f}]"
    trace = {
        "type": "heatmap",
        "x": labels,
        "y": labels,
        "z": packed(values),
        "text": text,
        "texttemplate": "%{text}",
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, "@low"], [0.5, "@panel"], [1, "@high"]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    layout = {
        "xaxis": {"side": "top", "title": {"text": "… than a run of"}, "showgrid": False, "type": "category"},
        "yaxis": {**_label_axis(labels), "title": {"text": "a run of … is better"}, "showgrid": False},
        "margin": {"l": 130, "t": 80, "b": 20},
    }
    return {"data": [trace], "layout": layout, "height": 130 + 32 * len(labels)}


def band_traces(findings: Findings, label: str, band: Band, what: str, shape: str = "linear") -> list[dict[str, Any]]:
    """A line with its confidence band; both belong to the label."""
    shown = ~np.isnan(band.y.value)
    x, value, low, high = (np.asarray(v)[shown] for v in (band.x, *band.y))
    color, dash = style_of(findings, label)
    common = {"name": label, "legendgroup": label, "type": "scatter", "showlegend": False}
    edges = np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]])
    if shape == "hv":  # a band has the corners of its line
        edges = _stairs(x, high), _stairs(x, low)
        edges = np.concatenate([edges[0][0], edges[1][0][::-1]]), np.concatenate([edges[0][1], edges[1][1][::-1]])
    return [
        {
            **common,
            "x": packed(edges[0]),
            "y": packed(edges[1]),
            "mode": "lines",
            "fill": "toself",
            "fillcolor": f"{color}/0.16",
            "line": {"width": 0},
            "hoverinfo": "skip",
        },
        {
            **common,
            "x": packed(x),
            "y": packed(value),
            "customdata": packed(np.stack([low, high], axis=1)),
            "mode": "lines" if len(x) > 1 else "markers",
            "line": {"color": color, "dash": dash, "width": 2, "shape": shape},
            "marker": {"color": color},
            "hovertemplate": f"{label}: %{{y:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]<extra></extra>",
            "meta": what,
        },
    ]


def style_of(findings: Findings, label: str) -> tuple[str, str]:
    """The colour and the dash of a label; the same in all charts."""
    i = findings.comparison.labels.index(label)
    return f"@{i % len(COLORS)}", _DASHES[i // len(COLORS) % len(_DASHES)]


def _present(findings: Findings, task: Task) -> list[str]:
    return [label for label in findings.order if (label, task) in findings.curves]


def _stairs(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]


def _dot(findings: Findings, label: str, result: Estimate, axis: str, what: str) -> dict[str, Any]:
    """A point with its interval, on the line of its label."""
    value, low, high = map(float, result)
    color, _ = style_of(findings, label)
    return {
        "type": "scatter",
        "name": label,
        "legendgroup": label,
        "showlegend": False,
        "x": [value],
        "y": [label],
        "xaxis": axis,
        "mode": "markers",
        "marker": {"color": color, "size": 9},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - value],
            "arrayminus": [value - low],
            "color": color,
            "thickness": 2,
            "width": 0,
            "visible": high > low,
        },
        "hovertemplate": f"{label}, {what}: {value:,.4g}"
        + (f" [{low:.3f}, {high:.3f}]" if high > low else "")
        + "<extra></extra>",
    }


def _label_axis(labels: list[str]) -> dict[str, Any]:
    return {"type": "category", "categoryorder": "array", "categoryarray": labels, "autorange": "reversed"}


def _column(i: int, columns: int, title: str) -> dict[str, Any]:
    """The x axis of the i-th of several columns, from 1."""
    width, gap = 1 / columns, 0.03
    domain = [(i - 1) * width + (gap / 2 if i > 1 else 0), i * width - (gap / 2 if i < columns else 0)]
    return {"domain": domain, "anchor": "y", "title": {"text": title}}


def _references(lines: Mapping[str, float]) -> dict[str, Any]:
    """Horizontal lines with their names."""
    shapes, annotations = [], []
    for name, y in lines.items():
        shapes.append(
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": y,
                "y1": y,
                "line": {"color": "@muted", "width": 1, "dash": "4px,3px"},
                "layer": "below",
            }
        )
        annotations.append(
            {
                "xref": "paper",
                "x": 1,
                "xanchor": "right",
                "y": y,
                "yanchor": "bottom",
                "text": name,
                "showarrow": False,
                "font": {"color": "@muted", "size": 11},
            }
        )
    return {"shapes": shapes, "annotations": annotations}


def _known_mean(values: Iterable[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
