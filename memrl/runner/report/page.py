"""The report's page: one HTML file that holds all it shows, and fetches nothing."""

import functools
import html
import importlib.resources
import json
import os
import string
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memrl.runner.comparable import Comparison, agent_fields
from memrl.runner.pictures import steps_text
from memrl.runner.report.analysis import Findings, Row
from memrl.runner.report.charts import (
    Chart,
    aggregate_chart,
    cost_chart,
    efficiency_chart,
    improvement_chart,
    learning_chart,
    profile_chart,
    style_of,
)
from memrl.runner.report.tables import aggregates_html, results_html

KINDS = {
    "greedy": "the mean return of the greedy policy after training",
    "sampled": "the mean return of the sampled policy after training",
    "mmer": "MMER, the maximum over training of the mean return",
}
_STROKES = {"solid": "none", "dash": "6 3", "dot": "2 2", "dashdot": "6 2 2 2"}


class Page:
    """Collects sections and the charts that they show."""

    def __init__(self) -> None:
        self.charts: dict[str, Chart] = {}
        self.sections: list[str] = []

    def add(self, title: str, *parts: str) -> None:
        """A section with a heading."""
        anchor = title.lower().replace(" ", "-")
        self.sections.append(f'<section id="{anchor}"><h2>{safe(title)}</h2>\n' + "\n".join(parts) + "\n</section>")

    def chart(self, chart: Chart, caption: str, title: str = "") -> str:
        """The HTML of a chart; the page draws it when it is scrolled to."""
        name = f"c{len(self.charts)}"
        self.charts[name] = {"data": chart["data"], "layout": chart["layout"]}
        heading = f"<strong>{safe(title)}</strong> " if title else ""
        text = safe(f"{title} {caption}".strip())
        return (
            f'<figure><figcaption>{heading}{safe(caption)}</figcaption><div class="chart" role="img" '
            f'aria-label="{text}" data-chart="{name}" style="height:{chart["height"]}px"></div></figure>'
        )


class Section(NamedTuple):
    """A section of further content: HTML, or charts with their captions and titles."""

    title: str
    parts: Sequence[str | tuple[Chart, str, str]]


def page_html(findings: Findings, title: str, out: Path, pictures: str, inside: Sequence[Section] = ()) -> str:
    """The whole page.

    Args:
        findings: what to show.
        title: of the page.
        out: where the page will lie; links start from there.
        pictures: the folder with pictures and tables, as the page links to it.
        inside: further sections, of what is in the memories.
    """
    comparison = findings.comparison
    page = Page()
    _scores(page, findings)
    page.add(
        "Results",
        _results_note(findings),
        '<p class="tools"><input type="search" data-filter="results-table" aria-label="Show rows with these words" '
        'placeholder="filter: words in a row"></p>',
        f'<div class="scroll" tabindex="0">{results_html(findings, functools.partial(_links, out=out))}</div>',
    )
    page.add("Learning curves", *_learning_curves(page, findings))
    costs = cost_chart(findings)
    if costs is not None:
        page.add("Cost", page.chart(costs, "Means over environments; the state is what is carried between steps."))
    for section in inside:
        page.add(section.title, *(part if isinstance(part, str) else page.chart(*part) for part in section.parts))
    page.add("Configurations", *_configurations(comparison))
    page.add("Skipped runs", _skipped(comparison))
    page.add("How this was made", *_methods(findings))
    return _fill(
        title=safe(title),
        lead=safe(_lead(comparison)),
        notices=_notices(findings),
        legend=_legend(findings),
        sections="\n".join(page.sections),
        footer=f'Pictures as PNG and SVG, and the tables as CSV, Markdown and LaTeX: <a href="{safe(pictures)}">'
        f"{safe(urllib.parse.unquote(pictures))}</a>.",
        charts=json.dumps(page.charts, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
    )


def safe(text: str) -> str:
    """Text for HTML."""
    return html.escape(text, quote=True)


def _fill(**parts: str) -> str:
    """The page's template with its style, its script and plotly's."""
    from plotly.offline import get_plotlyjs

    folder = importlib.resources.files(__package__ or "memrl.runner.report")
    read = {name: (folder / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    return string.Template(read["html"]).substitute(
        parts, style=read["css"], script=read["js"], plotly=get_plotlyjs().replace("</script", "<\\/script")
    )


def _scores(page: Page, findings: Findings) -> None:
    """What holds over all tasks together, where anything does."""
    table = findings.table
    if not table.scores:
        page.add(
            "Scores over all environments",
            "<p>None: there is no environment with known random and best returns on which all of these cores have "
            "runs.</p>",
        )
        return
    percent = f"{100 * findings.confidence:g}%"
    tasks = len(table.tasks)
    over = f"{tasks} environments" if tasks > 1 else "one environment"
    page.add(
        "Scores over all environments",
        f"<p class='note'>A score is {safe(KINDS[findings.kind])}, where 0 is what random actions earn and 1 the best "
        f"possible. Over {over}: {safe(', '.join(task.name for task in table.tasks))}. "
        f"Bars are {percent} intervals of the stratified bootstrap.</p>",
        page.chart(aggregate_chart(findings), ""),
        f'<div class="scroll" tabindex="0">{aggregates_html(findings)}</div>',
        '<div class="grid">',
        page.chart(profile_chart(findings), "Where curves cross, neither core is better throughout.", "Profile"),
        page.chart(efficiency_chart(findings), "Returns of the policy that trains, sampled.", "Sample efficiency"),
        "</div>",
    )
    if findings.improvement:
        page.add(
            "Probability of improvement",
            f"<p class='note'>How likely a run of one core beats a run of another, on an environment drawn at random. "
            f"Bold where the {percent} interval, which the pointer shows, leaves out one half.</p>",
            page.chart(improvement_chart(findings), ""),
        )


def _results_note(findings: Findings) -> str:
    return (
        f"<p class='note'>The return is {safe(KINDS[findings.kind])}, its mean over seeds with a "
        f"{100 * findings.confidence:g}% interval; the score is the same between random (0) and best (1). Steps per "
        "second count those of all seeds. A click on a column's head sorts.</p>"
    )


def _links(row: Row, out: Path) -> str:
    """The run folders of a row, and the episodes that were recorded there."""
    parts = []
    for run in row.entry.runs:
        parts.append(f'<a href="{_href(run.path, out)}">{safe(run.path.name)}</a>')
        parts += [f'<a href="{_href(gif, out)}">{safe(gif.name)}</a>' for gif in sorted(run.path.glob("*.gif"))]
    return " ".join(parts)


def _href(path: Path, out: Path) -> str:
    """A link that holds wherever page and runs are moved together."""
    relative = os.path.relpath(path.resolve(), out.resolve().parent)
    return safe(urllib.parse.quote(Path(relative).as_posix()))


def _learning_curves(page: Page, findings: Findings) -> list[str]:
    comparison = findings.comparison
    parts = [
        f"<p class='note'>Mean over seeds of the return of training, and its {100 * findings.confidence:g}% bootstrap "
        "interval.</p>",
        '<div class="grid">',
    ]
    for task in comparison.tasks:
        numbers = sorted({len(entry.seeds) for entry in comparison.of(task)})
        seeds = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        parts.append(page.chart(learning_chart(findings, task), f"{seeds} seeds", task.name))
    return [*parts, "</div>"]


def _configurations(comparison: Comparison) -> list[str]:
    """What the configurations have in common, and a line for each label with what they have not."""
    fields = {
        label: [agent_fields(run.config) for key, e in comparison.entries.items() if key[0] == label for run in e.runs]
        for label in comparison.labels
    }
    everything = [own for group in fields.values() for own in group]
    names = dict.fromkeys(name for own in everything for name in own if not name.startswith("core."))
    differing = [n for n in names if len({json.dumps(own.get(n), sort_keys=True) for own in everything}) > 1]
    heads = "".join(f'<th scope="col" class="text">{safe(name)}</th>' for name in ["core", *differing, "of the core"])
    lines = []
    for label, group in fields.items():
        cells = [safe(label), *(safe(_values(group, name)) for name in differing)]
        own = dict.fromkeys(name for one in group for name in one if name.startswith("core."))
        core = ", ".join(f"{n.removeprefix('core.')} {_values(group, n)}" for n in own if not n.endswith("name"))
        cells = "".join(f'<td class="text">{cell}</td>' for cell in cells)
        lines.append(f'<tr>{cells}<td class="text wrap">{safe(core)}</td></tr>')
    common = "".join(
        f'<tr><td class="text">{safe(name)}</td><td class="text">{safe(_values(everything, name))}</td></tr>'
        for name in names
        if name not in differing
    )
    return [
        "<p class='note'>What differs between runs; several values are those of several environments or runs.</p>",
        _plain_table(heads, "".join(lines)),
        f"<details><summary>What all runs have in common</summary><table><tbody>{common}</tbody></table></details>",
    ]


def _plain_table(heads: str, body: str) -> str:
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _values(group: Sequence[Mapping[str, Any]], name: str) -> str:
    """The values of a field, each once."""
    texts = (json.dumps(own[name]) if not isinstance(own[name], str) else own[name] for own in group if name in own)
    return ", ".join(dict.fromkeys(texts))


def _skipped(comparison: Comparison) -> str:
    if not comparison.skipped:
        return "<p>None.</p>"
    lines = "".join(f"<li><code>{safe(str(s.path))}</code>: {safe(s.reason)}</li>" for s in comparison.skipped)
    return f"<p>{len(comparison.skipped)} folders hold a run that is not shown here:</p><ul>{lines}</ul>"


def _methods(findings: Findings) -> list[str]:
    bounds = findings.comparison.bounds
    lines = "".join(
        f'<tr><td class="text">{safe(task.name)}</td><td>{steps_text(task.steps)}</td>'
        + (
            f"<td>{bounds[task].zero:.4g}</td><td>{bounds[task].one:.4g}</td>"
            f'<td class="text">{safe(bounds[task].origin)}</td>'
            if task in bounds
            else '<td></td><td></td><td class="text">not known: not normalised</td>'
        )
        + "</tr>"
        for task in findings.comparison.tasks
    )
    heads = "".join(
        f'<th scope="col"{kind}>{name}</th>'
        for name, kind in (
            ("environment", ' class="text"'),
            ("steps", ""),
            ("score 0", ""),
            ("score 1", ""),
            ("they are", ' class="text"'),
        )
    )
    return [
        "<p>Interquartile mean, median, mean, optimality gap, performance profiles and the probability of improvement "
        "are those of Agarwal et al. 2021, <em>Deep Reinforcement Learning at the Edge of the Statistical "
        "Precipice</em>: the interquartile mean is that of the middle half of all runs on all environments, the median "
        "is over environments of means over runs, the optimality gap is by how much scores fall short of 1. Intervals "
        "are percentiles of the bootstrap that draws the runs of each environment again, with replacement.</p>",
        "<p>MMER is POPGym's: the maximum over training of the mean return of the episodes that ended in an "
        "update.</p>",
        _plain_table(heads, lines),
    ]


def _lead(comparison: Comparison) -> str:
    runs = sum(len(entry.runs) for entry in comparison.entries.values())
    agents = sum(len(entry.seeds) for entry in comparison.entries.values())
    counts = (
        _count(len(comparison.labels), "core"),
        _count(len(comparison.tasks), "environment"),
        _count(runs, "run"),
        _count(agents, "agent"),
    )
    return f"{counts[0]} on {counts[1]}: {counts[2]} of {counts[3]} in all."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _notices(findings: Findings) -> str:
    """What a reader must know before comparing anything."""
    lines = [*findings.comparison.notices, *findings.table.notices]
    if findings.comparison.skipped:
        skipped = _count(len(findings.comparison.skipped), "run folder")
        lines.append(f"{skipped} skipped: unfinished, of another version, damaged or repeated; listed below")
    if not lines:
        return ""
    items = "".join(f"<li>{safe(line)}</li>" for line in lines)
    return f'<aside class="notices"><p>Not everything can be compared</p><ul>{items}</ul></aside>'


def _legend(findings: Findings) -> str:
    buttons = []
    for label in findings.order:
        color, dash = style_of(findings, label)
        line = (
            f'<svg viewBox="0 0 26 10" aria-hidden="true"><line x1="0" x2="26" y1="5" y2="5" stroke-width="3" '
            f'stroke="var(--{color[1:]})" stroke-dasharray="{_STROKES[dash]}"/></svg>'
        )
        name = safe(label)
        buttons.append(f'<button type="button" aria-pressed="true" data-label="{name}">{line}{name}</button>')
    return "\n".join([*buttons, '<button type="button" class="all">all / none</button>'])
