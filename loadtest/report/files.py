"""Reports as files in a result's folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from loadtest.about import About
from loadtest.report.capacity_page import capacity_plot, render_capacity
from loadtest.report.comparison_page import render_comparison
from loadtest.report.comparison_plots import comparison_plots
from loadtest.report.html import render
from loadtest.report.plots import plots
from loadtest.report.run import Run
from loadtest.report.style import Plot, house_style
from loadtest.verdict.capacity import Capacity
from loadtest.verdict.compare import Comparison, Side
from loadtest.verdict.summary import Summary
from loadtest.whole_file import whole_file

REPORT_FILE = "report.html"
COMPARISON_FILE = "comparison.html"
CAPACITY_FILE = "capacity.html"
_DOTS_PER_INCH = 200


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What was written."""

    page: Path
    pictures: tuple[Path, ...]


def write_report(
    folder: Path, *, about: About, summary: Summary, records: pl.DataFrame
) -> ReportFiles:
    """Write the page of a run and its plots as PNGs into a folder.

    Raises:
        OSError: a file cannot be written.
        ValidationError: the SLO that `about` holds is of another format.
    """
    run = Run.of(about=about, summary=summary, records=records)
    drawn = plots(run)
    return _write(folder / REPORT_FILE, render(run, drawn), drawn)


def write_comparison(folder: Path, a: Side, b: Side, comparison: Comparison) -> ReportFiles:
    """Write the page of two runs compared, and its plots as PNGs, into a folder.

    Raises:
        OSError: a file cannot be written.
    """
    drawn = comparison_plots(a, b, comparison)
    return _write(folder / COMPARISON_FILE, render_comparison(a, b, comparison, drawn), drawn)


def write_capacity(folder: Path, capacity: Capacity, *, title: str) -> ReportFiles:
    """Write the page of a search for capacity, and its plot as a PNG, into a folder.

    Raises:
        OSError: a file cannot be written.
    """
    plot = capacity_plot(capacity)
    return _write(folder / CAPACITY_FILE, render_capacity(capacity, plot, title=title), [plot])


def _write(page: Path, content: str, drawn: Iterable[Plot]) -> ReportFiles:
    with whole_file(page) as path:
        path.write_text(content, encoding="utf-8")
    return ReportFiles(page, tuple(write_picture(page.parent, plot) for plot in drawn))


@house_style
def write_picture(folder: Path, plot: Plot) -> Path:
    """Write a plot as a PNG into a folder.

    Raises:
        OSError: it cannot be written.
    """
    picture = folder / f"{plot.name}.png"
    plot.figure.suptitle(plot.title, fontweight="bold")
    with whole_file(picture) as path:
        plot.figure.savefig(path, dpi=_DOTS_PER_INCH, facecolor="white")
    return picture
