"""What a load test's own report does not show: processes over time, goodput over the rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from loadtest.report import style
from loadtest.report.style import Plot
from loadtest.report.words import number
from loadtest.scenarios.sampling import Watched


class Rated(NamedTuple):
    """What was asked for a second, and how much of it kept the SLO."""

    offered_rps: float
    goodput_rps: float


@style.house_style
def goodput_over_rate(rated: Sequence[Rated]) -> Plot:
    """Goodput at each rate that was offered."""
    ordered = sorted(rated)
    offered = [point.offered_rps for point in ordered]
    good = [point.goodput_rps for point in ordered]
    figure = style.figure(2.8)
    axes = figure.subplots()
    most = 1.08 * max(offered)
    handles: list[Artist] = [
        *axes.plot(offered, good, "o-", color=style.BLUE, markersize=4),
        *axes.plot([0, most], [0, most], color=style.GREY, linestyle="--", linewidth=1.0),
    ]
    style.legend(axes, handles, ["within the SLO", "all that was offered"])
    axes.set(xlim=(0, most), ylim=(0, 1.15 * max(good, default=1.0) + 1e-9))
    axes.set_xlabel("offered, requests/s")
    axes.set_ylabel("goodput, requests/s")
    return Plot(
        "goodput_over_rate",
        "Goodput over the offered rate",
        "On the dashed line everything is within the SLO. A platform that holds goes on level to "
        "the right of its peak; one that collapses falls.",
        f"Goodput at most {number(max(good, default=0.0))} requests/s.",
        figure,
    )


@style.house_style
def processes(watched: Sequence[Watched]) -> Plot:
    """Memory and open files of each process over time, in a colour for each role."""
    roles = sorted({process.role for process in watched})
    colours = dict(zip(roles, style.SERIES, strict=False))
    figure = style.figure(4.2)
    memory, files = figure.subplots(2, 1, sharex=True)
    for process in watched:
        colour = colours.get(process.role, style.GREY)
        memory.plot(process.at_s, process.rss_mib, color=colour, linewidth=1.0)
        files.plot(process.at_s, process.num_fds, color=colour, linewidth=1.0)
    _from_zero(memory, "RSS, MiB")
    _from_zero(files, "open files")
    handles = [memory.plot([], [], color=colours.get(role, style.GREY))[0] for role in roles]
    style.legend(memory, handles, roles)
    style.time_axis(files, max((process.at_s[-1] for process in watched), default=1.0))
    figure.align_ylabels()
    return Plot(
        "processes",
        "Memory and open files of every process",
        "A line for each process, a colour for each role. Growth at the beginning is pools and "
        "caches that fill; a line that goes on rising is a leak.",
        f"Memory and open files of {len(watched)} processes over time.",
        figure,
    )


def _from_zero(axes: Axes, label: str) -> None:
    axes.set_ylim(bottom=0)
    axes.set_ylabel(label)
