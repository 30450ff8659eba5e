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
    "found": ("pass", "✓", "{} requests/s"),
    "at least": ("pass", "≥", "At least {} requests/s"),
    "none": ("fail", "✕", "No rate is known to hold"),
    "unsettled": ("invalid", "?", "Unsettled"),
}


def render_capacity(capacity: Capacity, plot: Plot, *, title: str) -> str:
    """The page. `title` is of what was searched."""
    kind, sign, word = _LOOKS[capacity.outcome]
    template = environment().get_template("capacity.html.j2")
    return template.render(
        capacity=capacity, plots=(plot,), title=title, reasons=(capacity.reason,), marks=_MARKS,
        look=Look(kind, sign, word.format(number(capacity.rate_rps))),
    )  # fmt: skip


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
        "where the marks leave it, the server is past what it can take.",
        f"Goodput over the offered rate: {capacity.reason}",
        figure,
    )


def _draw(above: Axes, below: Axes, capacity: Capacity) -> None:
    rates = np.array([probe.rate_rps for probe in capacity.probes])
    (ideal,) = above.plot([0, rates.max()], [0, rates.max()], color=style.GREY, linewidth=1.0)
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
            handles.append(above.axvline(rate, color=style.INK, linewidth=1.1, linestyle=look))
            below.axvline(rate, color=style.INK, linewidth=1.1, linestyle=look)
            labels.append(f"{number(rate)}/s {label}")
    above.set_xlim(0, 1.08 * rates.max())
    above.set_ylim(bottom=0)
    below.set_ylim(0, 108)
    style.legend(above, handles, labels)


def _marks(above: Axes, below: Axes, probes: Sequence[Probe], *, color: str, marker: str) -> Artist:
    rates = np.array([probe.rate_rps for probe in probes])
    goodputs = np.array([probe.goodput_rps for probe in probes])
    below.plot(rates, 100 * goodputs / rates, marker, color=color, alpha=0.75)
    (marks,) = above.plot(rates, goodputs, marker, color=color, alpha=0.75)
    return marks
