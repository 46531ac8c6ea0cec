"""Writes a report: the page, and beside it a folder with pictures and tables."""

import dataclasses
import os
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from memrl.errors import MemrlError, check
from memrl.runner.comparable import Comparison, compare_runs
from memrl.runner.report.analysis import Sampling, analyse
from memrl.runner.report.figures import draw_pictures
from memrl.runner.report.inside import look_inside_all, memory_section
from memrl.runner.report.page import page_html
from memrl.runner.report.tables import tables
from memrl.runner.results import collect_runs
from memrl.runner.statistics import CONFIDENCE, REPETITIONS


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """What a report shows, and how sure it says to be."""

    title: str = "Memory cores compared"
    """Heading of the page."""
    score: Literal["greedy", "sampled", "mmer"] = "greedy"
    """What counts as a run's result: the return of the greedy or of the sampled policy after training, or POPGym's
    maximum over training of the mean return."""
    repetitions: int = REPETITIONS
    """Times that the bootstrap draws the runs again."""
    confidence: float = CONFIDENCE
    """Probability that an interval is meant to hold."""
    memory: bool = False
    """Also show what the memories hold: what a linear probe reads from them, and their states and attention in an
    episode. Plays episodes with the last checkpoint of every run, which takes some seconds each."""
    episode: int = 0
    """Seed of the episode that --memory shows."""

    def __post_init__(self) -> None:
        """Raises `MemrlError` for a value out of range."""
        check(self.repetitions >= 1, f"report: repetitions is {self.repetitions}, expected at least 1")
        check(0 <= self.episode < 2**32, f"report: episode is {self.episode}, expected between 0 and {2**32 - 1}")
        check(0 < self.confidence < 1, f"report: confidence is {self.confidence}, expected between 0 and 1")


class Report(NamedTuple):
    """What was written, and of what."""

    page: Path
    folder: Path  # with pictures and tables
    comparison: Comparison
    notices: tuple[str, ...]  # what is not compared


def write_report(
    paths: Sequence[str | Path], out: Path, options: ReportOptions = ReportOptions(), *, overwrite: bool = False
) -> Report:
    """Writes the report of all finished runs in `paths`: the page `out`, and a folder of the same name without ".html".

    Raises:
        MemrlError: if there is no finished run, or the report cannot be written there.
    """
    out = Path(out)
    folder = out.with_suffix("")
    _check_output(out, folder, overwrite)
    runs, skipped = collect_runs(paths)
    if not runs:
        reasons = "; ".join(f"{s.path}: {s.reason}" for s in skipped[:3])
        raise MemrlError(f"no finished run to report: {len(skipped)} skipped: {reasons}")
    comparison = compare_runs(runs, skipped)
    findings = analyse(comparison, options.score, Sampling(options.repetitions, options.confidence))
    inside = look_inside_all(comparison, options.episode) if options.memory else None
    folder.mkdir(exist_ok=True)
    for name, text in tables(findings).items():
        _write(folder / name, text)
    draw_pictures(findings, folder, inside)
    sections = () if inside is None else (memory_section(findings, inside, options.episode),)
    _write(out, page_html(findings, options.title, out, f"{urllib.parse.quote(folder.name)}/", sections))
    return Report(out, folder, comparison, (*comparison.notices, *findings.table.notices))


def _check_output(out: Path, folder: Path, overwrite: bool) -> None:
    check(out.suffix == ".html", f"report: out is {out}, expected a file that ends in .html")
    check(out.parent.is_dir(), f"report: out is {out}, but {out.parent} is not a folder")
    for path in (out, folder):
        check(overwrite or not path.exists(), f"report: {path} exists, expected --overwrite, or another --out")
    check(not out.is_dir(), f"report: out is {out}, which is a folder")
    check(folder.is_dir() or not folder.exists(), f"report: {folder} is a file, where the folder with pictures goes")


def _write(path: Path, text: str) -> None:
    """Writes a file so that it holds either its old or its new content at any moment."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
