"""What is in the memories of runs: what can be read from them, and how they change over an episode."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from memrl.errors import MemrlError
from memrl.runner.comparable import Comparison, Entry, Task
from memrl.runner.pictures import COLORS
from memrl.runner.report.analysis import Band, Findings
from memrl.runner.report.charts import Chart, band_traces, packed
from memrl.runner.report.page import Section, safe
from memrl.runner.statistics import Estimate

if TYPE_CHECKING:
    from memrl.runner.insight import AttentionMap, Insight, Probe, Trace

MAX_STEPS = 100  # of the episode that is shown
_MAX_ROWS = 48  # of observations
_MAX_HEADS = 4
_NORMAL_95 = 1.96


class Inside(NamedTuple):
    """The insights of one run for each entry, and why there is none for others."""

    insights: dict[tuple[str, Task], "Insight"]
    missing: tuple[str, ...]


def look_inside_all(comparison: Comparison, episode: int) -> Inside:
    """Looks inside of the first seed of every entry that has a checkpoint; some seconds each.

    Args:
        comparison: the entries.
        episode: seed of the episode that is shown.
    """
    from memrl.runner.insight import InsightOptions, look_inside
    from memrl.runner.saved import load_saved

    options = InsightOptions(episode_seed=episode, max_steps=MAX_STEPS)
    insights, missing = {}, []
    for key, entry in comparison.entries.items():
        try:
            insights[key] = look_inside(load_saved(entry.runs[0].path), 0, options)
        except MemrlError as error:
            missing.append(f"{_name(entry)}: {error}")
    return Inside(insights, tuple(missing))


def memory_section(findings: Findings, inside: Inside, episode: int) -> Section:
    """The page's section: probes for each task, then every run's episode, folded."""
    result: list[str | tuple[Chart, str, str]] = [
        "<p class='note'>How well a linear decoder, fitted to other episodes of the first seed, reads from the state "
        "what was seen some steps ago, or the cue that the task hides; the band is a 95% interval. Dashed: the same "
        "decoder from the present observation alone; dotted: guessing.</p>",
        '<div class="grid">',
    ]
    tasks = findings.comparison.tasks
    for task, kind in itertools.product(tasks, ("observation", "cue")):
        probes = probes_of(inside, task, kind)
        if probes:
            target = next(iter(probes.values())).target
            result.append((probe_chart(findings, probes), f"on {task.name}", f"Probe of {target}"))
    result.append("</div>")
    for (label, task), insight in inside.insights.items():
        result.append(f"<details><summary>{safe(label)} on {safe(task.name)}: an episode</summary>")
        cut = "" if insight.trace.ended else f", its first {len(insight.trace.rewards)} steps"
        result.append((trace_chart(insight.trace), f"Episode {episode}{cut}.", "State, rewards and observations"))
        for attention in insight.attention:
            layer = f"layer {attention.layer}, {insight.trace.layers[attention.layer]}"
            caption = f"Of {layer}; the darker, the more weight."
            result.append((attention_chart(attention), caption, "Attention"))
        result.append("</details>")
    if inside.missing:
        lines = "".join(f"<li>{safe(line)}</li>" for line in inside.missing)
        result.append(f"<p>Not looked into:</p><ul>{lines}</ul>")
    return Section("What the memories hold", result)


def probes_of(inside: Inside, task: Task, kind: str) -> "dict[str, Probe]":
    """The probes of one kind, "observation" or "cue", on a task, by label; there are none where no cue is named."""
    found = {label: getattr(insight, kind) for (label, other), insight in inside.insights.items() if other == task}
    return {label: probe for label, probe in found.items() if probe is not None}


def axis_of(probe: "Probe") -> str:
    """What the delays of a probe count."""
    return "steps ago" if probe.target == "observation" else "step of the episode"


def probe_chart(findings: Findings, probes: "Mapping[str, Probe]") -> Chart:
    """How well a linear decoder reads the target from each memory, beside what needs none."""
    first = next(iter(probes.values()))
    data: list[dict[str, Any]] = [
        _reference(first.delays, first.sight, "from the present observation alone", "dash"),
        _reference(first.delays, first.chance, "guessing", "dot"),
    ]
    for label in findings.order:
        if label in probes:
            data += band_traces(findings, label, probe_band(probes[label]), first.measure)
    layout = {
        "xaxis": {"title": {"text": axis_of(first)}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": f"{first.measure} of a linear probe"}},
    }
    return {"data": data, "layout": layout, "height": 300}


def probe_band(probe: "Probe") -> Band:
    """A probe's score with its 95% interval."""
    margin = _NORMAL_95 * np.nan_to_num(probe.error)
    return Band(probe.delays, Estimate(probe.score, probe.score - margin, probe.score + margin))


def trace_chart(trace: "Trace") -> Chart:
    """An episode: the norm of each layer's state over the observations and the rewards."""
    steps = np.arange(len(trace.rewards))
    rows = [i for i, column in enumerate(trace.observations.T) if np.ptp(column) > 0][:_MAX_ROWS]
    labels = [trace.labels[i] for i in rows]
    data: list[dict[str, Any]] = []
    for i, layer in enumerate(trace.layers):
        name = f"layer {i}, {layer}"
        line = {"color": f"@{i % len(COLORS)}", "width": 2}
        hover = f"step %{{x}}, {name}: norm %{{y:.3g}}<extra></extra>"
        data.append(_line(steps, trace.norms[:, i], name, line, "y", hover))
    data.append(
        {
            "type": "bar",
            "name": "reward",
            "x": packed(steps),
            "y": packed(np.asarray(trace.rewards, float)),
            "yaxis": "y2",
            "marker": {"color": "@muted"},
            "hovertemplate": "step %{x}: reward %{y:.3g}<extra></extra>",
        }
    )
    if rows:
        data.append(
            {
                "type": "heatmap",
                "name": "observations",
                "x": packed(steps),
                "y": labels,
                "z": packed(_as_bytes(trace.observations.T[rows])),
                "yaxis": "y3",
                "colorscale": [[0, "@panel"], [1, "@0"]],
                "showscale": False,
                "hovertemplate": "step %{x}, %{y}<extra></extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "step"}, "anchor": "y3" if rows else "y2"},
        "yaxis": {"title": {"text": "norm of state"}, "domain": [0.62, 1.0], "rangemode": "tozero"},
        "yaxis2": {"title": {"text": "reward"}, "domain": [0.46, 0.58], "nticks": 3},
        "yaxis3": {"domain": [0.0, 0.42], "type": "category", "autorange": "reversed", "showgrid": False},
        "margin": {"l": 110},
    }
    return {"data": data, "layout": layout, "height": 330 + 6 * len(rows)}


def attention_chart(attention: "AttentionMap") -> Chart:
    """A panel for each head: rows are steps, columns what they look at."""
    heads = attention.weights[:_MAX_HEADS]
    layout: dict[str, Any] = {"yaxis": {"title": {"text": "step"}, "autorange": "reversed", "showgrid": False}}
    data = []
    width = 1 / len(heads)
    for i, weights in enumerate(heads):
        suffix = "" if i == 0 else str(i + 1)
        layout[f"xaxis{suffix}"] = {
            "domain": [i * width + (0.01 if i else 0), (i + 1) * width - 0.01],
            "title": {"text": f"looks at, head {i}"},
            "showgrid": False,
        }
        data.append(
            {
                "type": "heatmap",
                "name": f"head {i}",
                "xaxis": f"x{suffix}",
                # The root shows what is small; each row by its own largest weight.
                "z": packed((255 * np.sqrt(weights / max(float(weights.max()), 1e-9))).astype(np.uint8)),
                "colorscale": [[0, "@panel"], [1, "@0"]],
                "showscale": False,
                "hovertemplate": "step %{y} looks at step %{x}<extra></extra>",
            }
        )
    return {"data": data, "layout": layout, "height": 330}


def _name(entry: Entry) -> str:
    return f"{entry.label} on {entry.task.name}"


def _reference(x: np.ndarray, y: np.ndarray, name: str, dash: str) -> dict[str, Any]:
    """A grey line that belongs to no label."""
    line = {"color": "@muted", "dash": dash, "width": 1.5}
    return _line(x, y, name, line, "y", f"{name}: %{{y:.3f}}<extra></extra>")


def _line(x: np.ndarray, y: np.ndarray, name: str, line: dict[str, Any], axis: str, hover: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": packed(np.asarray(x)),
        "y": packed(np.asarray(y, float)),
        "yaxis": axis,
        "line": line,
        "hovertemplate": hover,
        "showlegend": False,
    }


def _as_bytes(rows: np.ndarray) -> np.ndarray:
    """Each row scaled to 0 ... 255, with gaps where it is not finite as 0."""
    rows = np.nan_to_num(np.asarray(rows, float), posinf=0.0, neginf=0.0)
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    return (255 * (rows - low) / np.maximum(high - low, 1e-9)).astype(np.uint8)
