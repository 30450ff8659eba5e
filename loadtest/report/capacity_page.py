"""A search for capacity as a picture, and as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from loadtest.report import style
from loadtest.report.html import Look, environment
from loadtest.report.style import Plot
from loadtest.report.words import number
from loadtest.verdict.capacity import Capacity, Outcome, Probe
from loadtest.verdict.summary import Verdict

_MARKS: Mapping[Verdict, tuple[str, str, str]] = {
    "pass": ("meets the SLO", style.GREEN, "o"),
    "fail": ("does not", style.RED, "s"),
    "invalid": ("generator too slow to tell", style.GREY, "D"),
}
_LOOKS: Mapping[Outcome, tuple[str, str, str]] = {
    "found": ("pass", "✓", "{}"),
    "at least": ("pass", "≥", "At least {}"),
    "none": ("fail", "✕", "No rate is known to hold"),
    "unsettled": ("invalid", "?", "Unsettled"),
}


def render_capacity(capacity: Capacity, plot: Plot, *, title: str) -> str:
    """The page. `title` is of what was searched."""
    kind, sign, word = _LOOKS[capacity.outcome]
    template = environment().get_template("capacity.html.j2")
    return template.render(
        capacity=capacity, plots=(plot,), title=title, reasons=(capacity.reason,), marks=_MARKS,
        look=Look(kind, sign, word.format(_rate(capacity))),
    )  # fmt: skip


def _rate(capacity: Capacity) -> str:
    """The rate that holds, in requests a second also where it counts sessions."""
    if capacity.rate_rps is None:
        return ""
    rate = f"{number(capacity.rate_rps)} {capacity.unit}/s"
    if capacity.unit == "requests":
        return rate
    return f"{rate}, {number(capacity.offered_at(capacity.rate_rps))} requests/s"


@style.house_style
def capacity_plot(capacity: Capacity) -> Plot:
    """What every probe came to, above what it was asked for, and the rate that was found."""
    figure = style.figure(4.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    if capacity.probes:
        _draw(above, below, capacity)
    else:
        style.nothing(above, "no rate was tried")
    above.set_ylabel("goodput, requests/s")
    below.set_ylabel("of what was offered, %")
    below.set_xlabel("offered, requests/s")
    figure.align_ylabels()
    return Plot(
        "capacity",
        "Goodput over the offered rate",
        "Each mark is one probe. On the grey line everything that was offered came back in time; "
        "where the marks leave it, the server is past what it can take. Upright lines are where "
        "probes of that rate lie on average.",
        f"Goodput over the offered rate: {capacity.reason}",
        figure,
    )


def _draw(above: Axes, below: Axes, capacity: Capacity) -> None:
    most_rps = max(probe.offered_rps for probe in capacity.probes)
    (ideal,) = above.plot([0, most_rps], [0, most_rps], color=style.GREY, linewidth=1.0)
    handles, labels = list[Artist]([ideal]), ["all of it"]
    for verdict, (label, colour, marker) in _MARKS.items():
        probes = [probe for probe in capacity.probes if probe.verdict == verdict]
        if probes:
            handles.append(_marks(above, below, probes, color=colour, marker=marker))
            labels.append(label)
    for rate, label, look in (
        (capacity.rate_rps, "holds", "-"),
        (capacity.failing_rps, "does not hold", ":"),
    ):
        if rate is not None:
            at_rps = capacity.offered_at(rate)
            handles.append(above.axvline(at_rps, color=style.INK, linewidth=1.1, linestyle=look))
            below.axvline(at_rps, color=style.INK, linewidth=1.1, linestyle=look)
            labels.append(f"{number(rate)} {capacity.unit}/s: {label}")
    above.set_xlim(0, 1.08 * most_rps)
    above.set_ylim(bottom=0)
    below.set_ylim(0, 108)
    style.legend(above, handles, labels)


def _marks(above: Axes, below: Axes, probes: Sequence[Probe], *, color: str, marker: str) -> Artist:
    offered = np.array([probe.offered_rps for probe in probes])
    goodputs = np.array([probe.goodput_rps for probe in probes])
    below.plot(offered, 100 * goodputs / offered, marker, color=color, alpha=0.75)
    (marks,) = above.plot(offered, goodputs, marker, color=color, alpha=0.75)
    return marks
