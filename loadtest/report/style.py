"""How every plot looks, and what text has to pass to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator

from loadtest.report.series import Floats
from loadtest.report.words import span

INK = "#1f2a37"
RULE = "#dfe4ea"
"""Of text and of grid lines. The page replaces both by its own, so no data has these colours."""

BLUE, ORANGE, GREEN, RED = "#3579d4", "#e08214", "#2a9d74", "#d1495b"
PURPLE, CYAN, BROWN, GREY = "#8a63c9", "#17a3b8", "#a9713f", "#8592a3"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, CYAN, BROWN, GREY)
"""Told apart on white and on black, and by most who do not see all colours."""

DASHES = ("--", ":", "-.")
"""Of lines that mark a place, in turn."""

house_style = rc_context(
    {
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "axes.labelsize": 8.5,
        "axes.edgecolor": INK,
        "axes.linewidth": 0.6,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": RULE,
        "grid.linewidth": 0.7,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "text.color": INK,
        # A name may hold dollar signs, which would be read as formulas.
        "text.parse_math": False,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "lines.linewidth": 1.5,
        "lines.solid_capstyle": "round",
        "svg.fonttype": "path",
        "svg.hashsalt": "loadtest",
    }
)
"""Decorates what draws or saves: matplotlib reads its settings at both times."""

_WIDTH_IN = 5.6
_LEGEND_CHARS = 76
_LEGEND_HANDLE_CHARS = 7
_LONGEST_NAME = 30
_LEAST_MS = 1e-3


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture and what is said of it: how to read it, and what it shows to who cannot see it."""

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


def figure(height_in: float) -> Figure:
    """A figure that a column of a page and a phone can show without making its text too small."""
    return Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")


def drawable(name: str) -> str:
    """A name as the plots' font can show it: short, in one line, of characters that it has.

    >>> drawable("tenant\\n日本"), drawable("x" * 40)
    ('tenant ��', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxx…')
    """
    line = " ".join(name.split())
    short = line if len(line) <= _LONGEST_NAME else line[: _LONGEST_NAME - 1] + "…"
    known = _glyphs()
    return "".join(letter if ord(letter) in known else "\ufffd" for letter in short)


@lru_cache
def _glyphs() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def legend(axes: Axes, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Name what is drawn, above the data and never on it, in as few rows as it takes."""
    widths = [len(label) + _LEGEND_HANDLE_CHARS for label in labels]
    columns = len(labels) if sum(widths) <= _LEGEND_CHARS else _LEGEND_CHARS // max(widths)
    # matplotlib leaves out what begins with an underscore.
    shown = [f" {label}" if label.startswith("_") else label for label in labels]
    axes.legend(
        handles, shown, loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.2,
        ncols=max(1, columns), columnspacing=1.4, handlelength=1.6, handletextpad=0.5,
    )  # fmt: skip


def outline(axes: Axes, values: Floats, edges: Floats, colour: str) -> Artist:
    """Draw a value for each slice of time as a line of steps."""
    return axes.stairs(values, edges, baseline=None, color=colour, linewidth=1.5)


def rate_axis(axes: Axes, name: str, greatest: float) -> None:
    """Rates as y, from 0."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.set_ylim(0, 1.1 * greatest or 1.0)
    axes.set_ylabel(name)


def nothing(axes: Axes, why: str) -> None:
    """Say why there is no data, in its place."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_yticks([])
    axes.grid(visible=False)


def duration_axis(axes: Axes, which: str, values_ms: Floats) -> None:
    """Lengths of time in ms on axis `x` or `y`: logarithmic where they differ much, and ticks in
    units that suit them."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda ms, _: span(ms)))
    positive = values_ms[values_ms >= _LEAST_MS]
    if positive.size == 0 or positive.max() < 8 * np.quantile(positive, 0.02):
        axes.set(**{f"{which}lim": (0, 1.08 * float(positive.max(initial=1.0)))})
        return
    axes.set(**{f"{which}scale": "log"})
    least, greatest = float(positive.min()), float(positive.max())
    decades = np.log10(greatest / least)
    subs = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0) if decades < 3.2 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda ms, _: span(ms)))
    margin = max(1.12, (greatest / least) ** 0.03)
    axes.set(**{f"{which}lim": (least / margin, greatest * margin)})


def count_axis(axes: Axes, *, most_ticks: int = 7) -> None:
    """Counts as y, from 0."""
    axes.yaxis.set_major_locator(MaxNLocator(most_ticks, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.set_ylim(bottom=0)


def log_count_axis(axes: Axes) -> None:
    """Counts as y, of which one beside thousands can be seen."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.set_ylim(bottom=0.7)


def time_axis(axes: Axes, last_s: float) -> None:
    """Seconds since the beginning of the run as x, in a unit that suits them."""
    unit, size = next(
        (unit, size)
        for unit, size, most in (("s", 1, 180), ("min", 60, 10_800), ("h", 3600, np.inf))
        if last_s <= most
    )
    axes.set_xlim(0, last_s)
    axes.xaxis.set_major_locator(_time_ticks(last_s, size))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{s / size:g}"))
    axes.set_xlabel(f"time since the run began, {unit}")


def _time_ticks(last_s: float, unit_s: float) -> MultipleLocator:
    """A tick every 1, 2, 5, 10, … units, at most eight of them."""
    least = last_s / unit_s / 8
    power = 10.0 ** np.floor(np.log10(least))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= least)
    return MultipleLocator(step * unit_s)
