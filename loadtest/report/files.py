"""Reports as files in a result's folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from loadtest.about import About
from loadtest.report.html import render
from loadtest.report.plots import plots
from loadtest.report.run import Run
from loadtest.report.style import Plot, house_style
from loadtest.verdict.summary import Summary

REPORT_FILE = "report.html"
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
    return write(folder / REPORT_FILE, render(run, drawn), drawn)


def write(page: Path, content: str, drawn: Iterable[Plot]) -> ReportFiles:
    """Write a page, and beside it the plots it shows.

    Raises:
        OSError: a file cannot be written.
    """
    page.write_text(content)
    return ReportFiles(page, tuple(write_picture(page.parent, plot) for plot in drawn))


@house_style
def write_picture(folder: Path, plot: Plot) -> Path:
    """A plot as a PNG in a folder.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / f"{plot.name}.png"
    plot.figure.suptitle(plot.title, fontweight="bold")
    plot.figure.savefig(path, dpi=_DOTS_PER_INCH, facecolor="white")
    return path
