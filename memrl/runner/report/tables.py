"""The tables of a report: columns once, written as HTML, CSV, Markdown and LaTeX."""

import csv
import html
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from memrl.runner.comparable import Task
from memrl.runner.memory import size_text
from memrl.runner.report.analysis import Findings, Row
from memrl.runner.statistics import AGGREGATES, Estimate

Value = str | int | float | None


class Column(NamedTuple):
    """One column of the table of results."""

    name: str  # in the CSV
    title: str  # to be read
    value: Callable[[Row], Value]
    text: Callable[[float], str] = lambda value: f"{value:,.0f}"  # of a number


def seconds_text(seconds: float) -> str:
    """12 s, 3.4 min, 1.2 h."""
    for unit, size in (("h", 3600), ("min", 100)):
        if seconds >= size:
            return f"{seconds / (3600 if unit == 'h' else 60):.1f} {unit}"
    return f"{seconds:.3g} s"


def _fact(name: str) -> Callable[[Row], Value]:
    """A whole number as an int, as counts are."""
    return lambda row: int(row.facts[name]) if row.facts[name].is_integer() else row.facts[name]


COLUMNS = (
    Column("environment", "environment", lambda row: row.entry.task.name),
    Column("core", "core", lambda row: row.entry.label),
    Column("seeds", "seeds", lambda row: len(row.entry.seeds)),
    Column("return", "return", lambda row: float(row.returns.value), lambda value: f"{value:.3f}"),
    Column("return_low", "", lambda row: float(row.returns.low)),
    Column("return_high", "", lambda row: float(row.returns.high)),
    Column("score", "score", lambda row: row.score, lambda value: f"{value:.3f}"),
    Column("mmer", "MMER", lambda row: row.mmer, lambda value: f"{value:.3f}"),
    Column("env_steps", "", lambda row: row.entry.task.steps),
    Column("parameters", "parameters", _fact("parameters")),
    Column("state_bytes", "state", _fact("state_bytes"), size_text),
    Column("env_steps_per_second", "steps/s", _fact("env_steps_per_second")),
    Column("compile_seconds", "compiling", _fact("compile_seconds"), seconds_text),
    Column("train_seconds", "training", _fact("train_seconds"), seconds_text),
    Column("peak_memory_bytes", "peak memory", _fact("peak_memory_bytes"), size_text),
    Column("runs", "", lambda row: " ".join(str(run.path) for run in row.entry.runs)),
)


def results_csv(findings: Findings) -> str:
    """A line per label and task, all columns, numbers in full; empty where not known."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in COLUMNS])
    for row in findings.rows:
        values = [column.value(row) for column in COLUMNS]
        writer.writerow(["" if _missing(value) else value for value in values])
    return file.getvalue()


def results_html(findings: Findings, links: Callable[[Row], str]) -> str:
    """The sortable table; `links` gives the last cell of a row."""
    known = [c for c in COLUMNS if not all(_missing(c.value(row)) for row in findings.rows)]
    shown = [column for column in known if column.title]
    heads = "".join(_head(column.title, text=i < 2) for i, column in enumerate(shown))
    lines = []
    for row in findings.rows:
        cells = "".join(_cell(column, row) for column in shown)
        lines.append(f'<tr>{cells}<td class="text">{links(row)}</td></tr>')
    head = f'<thead><tr>{heads}<th scope="col" class="text">run</th></tr></thead>'
    return f'<table class="sortable" id="results-table">{head}<tbody>\n' + "\n".join(lines) + "\n</tbody></table>"


def aggregates_html(findings: Findings) -> str:
    """A sortable line for each label: statistics over all tasks."""
    heads = _head("core", text=True) + "".join(map(_head, AGGREGATES))
    lines = []
    for label in _aggregated(findings):
        cells = [f'<td class="text" data-value="{_safe(label)}">{_safe(label)}</td>']
        for results in findings.aggregates.values():
            value, low, high = results[label]
            interval = f'<span class="interval">[{low:.3f}, {high:.3f}]</span>'
            cells.append(f'<td data-value="{value:.6g}">{value:.3f} {interval}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table class="sortable" id="aggregates-table"><thead><tr>{heads}</tr></thead><tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table>"
    )


def matrix(findings: Findings) -> list[list[str]]:
    """What papers print: a line for each task, a column for each label, "0.92 ± 0.03"; then the statistics over tasks.

    Half the width of the interval follows the sign; the best mean of a line is marked with stars round it.
    """
    labels = list(findings.order)
    rows = {(row.entry.label, row.entry.task): row.returns for row in findings.rows}
    lines = [["environment", *labels]]
    for task in findings.comparison.tasks:
        lines.append([task.name, *_line([rows.get((label, task)) for label in labels])])
    for name, results in findings.aggregates.items():
        if results:
            estimates = [results.get(label) for label in labels]
            lines.append([name, *_line(estimates, lowest=name == "optimality gap")])
    return lines


def to_markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table for Markdown; the best of each line is bold."""
    lines = [[_escaped(cell).replace("*", "**") for cell in line] for line in lines]
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "".join("| " + " | ".join(line) + " |\n" for line in [lines[0], rule, *lines[1:]])


def to_latex(lines: Sequence[Sequence[str]], tasks: int) -> str:
    """A tabular for LaTeX with the rules of booktabs; the best of each line is bold."""
    body = [" & ".join(map(_latex, line)) + r" \\" for line in lines]
    rules = [r"\toprule", body[0], r"\midrule", *body[1 : 1 + tasks]]
    if len(body) > 1 + tasks:
        rules += [r"\midrule", *body[1 + tasks :]]
    columns = "l" + "r" * (len(lines[0]) - 1)
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            rf"\begin{{tabular}}{{{columns}}}",
            *rules,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def tables(findings: Findings) -> dict[str, str]:
    """All files by name."""
    lines = matrix(findings)
    tasks: Sequence[Task] = findings.comparison.tasks
    return {
        "results.csv": results_csv(findings),
        "results.md": to_markdown(lines),
        "results.tex": to_latex(lines, len(tasks)),
    }


def _line(estimates: Sequence[Estimate | None], *, lowest: bool = False) -> list[str]:
    """The cells of a line, blank where nothing is known."""
    values = [math.nan if e is None else float(e.value) for e in estimates]
    known = [value for value in values if math.isfinite(value)]
    best = (min if lowest else max)(known, default=math.nan)
    cells = []
    for result, value in zip(estimates, values, strict=True):
        if result is None or not math.isfinite(value):
            cells.append("")
            continue
        text = f"{value:.2f} ± {(result.high - result.low) / 2:.2f}"
        cells.append(f"*{text}*" if value == best and len(known) > 1 else text)
    return cells


def _aggregated(findings: Findings) -> list[str]:
    return [label for label in findings.order if label in findings.table.scores]


def _head(title: str, text: bool = False) -> str:
    kind = ' class="text"' if text else ""
    return f'<th scope="col"{kind}><button type="button">{_safe(title)}</button></th>'


def _cell(column: Column, row: Row) -> str:
    value = column.value(row)
    if _missing(value):
        return "<td></td>"
    if isinstance(value, str):
        return f'<td class="text" data-value="{_safe(value)}">{_safe(value)}</td>'
    assert value is not None
    text = column.text(value)
    if column.name == "return" and len(row.entry.seeds) > 1:
        text += f' <span class="interval">[{row.returns.low:.3f}, {row.returns.high:.3f}]</span>'
    return f'<td data-value="{value:.9g}">{text}</td>'


def _missing(value: Value) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _safe(text: str) -> str:
    return html.escape(text, quote=True)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _latex(cell: str) -> str:
    """A cell for LaTeX: an estimate as mathematics, else text."""
    text = cell.strip("*")
    if "±" in text:
        number = text.replace("±", r"\pm")
        return rf"$\mathbf{{{number}}}$" if cell.startswith("*") else f"${number}$"
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text
