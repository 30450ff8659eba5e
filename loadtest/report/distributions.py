"""Plots of how times are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, cycle, repeat

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from loadtest.report import series, style
from loadtest.report.limits import Limit, slo_limits
from loadtest.report.run import Run
from loadtest.report.series import Floats
from loadtest.report.style import Plot
from loadtest.report.words import number, span, whole
from loadtest.verdict.summary import Distribution

_MOST_PARTS = 8
_BARS = 60
_LINEAR_COUNTS = 50
_LINE_WIDTH = 1.5
_PERCENTILES = (50.0, 90.0, 99.0)
"""Of the summary's definition, so that no dot contradicts a table."""


@style.house_style
def latency_cdfs(run: Run) -> Plot:
    """TTFT and latency above, the gaps between tokens below."""
    figure = style.figure(4.6)
    above, below = figure.subplots(2, 1)
    gaps, step = series.some_gaps_ms(run.requests)
    ttft, latency, tpot = (
        series.finite(run.requests[metric]) for metric in ("ttft_ms", "latency_ms", "tpot_ms")
    )
    curves(
        above,
        {"TTFT": ttft, "latency": latency},
        limits=slo_limits(run.slo, "ttft_ms", "latency_ms"),
    )
    curves(below, {"ITL": gaps, "TPOT": tpot}, limits=slo_limits(run.slo, "itl_ms", "tpot_ms"))
    figure.align_ylabels()
    overall = run.summary.overall
    return Plot(
        "latency_cdfs",
        "How long completed requests took",
        "Read up from a time to see which share of requests was at least that fast; the further "
        "left and the steeper, the better. Dots mark p50, p90 and p99; upright lines are the SLO's "
        "limits." + _sampled(step),
        "Cumulative distributions: "
        + "; ".join(
            f"{name} {_in_words(distribution)}"
            for name, distribution in (
                ("TTFT", overall.ttft_ms), ("latency", overall.latency_ms),
                ("ITL", overall.itl_ms), ("TPOT", overall.tpot_ms),
            )
        ),
        figure,
    )  # fmt: skip


@style.house_style
def ttft_by_part(run: Run) -> Plot:
    """The TTFT of each part of the workload, of the greatest ones where there are many."""
    parts = sorted(run.summary.parts, key=lambda part: -part.requests)[:_MOST_PARTS]
    of_parts = {
        part.name: series.finite(run.requests.filter(traffic=part.name)["ttft_ms"])
        for part in parts
    }
    figure = style.figure(2.7)
    curves(figure.subplots(), of_parts, limits=slo_limits(run.slo, "ttft_ms"))
    left_out = len(run.summary.parts) - len(parts)
    return Plot(
        "ttft_by_part",
        "TTFT of each part of the workload",
        "Parts whose curves lie apart are not served alike: one of them may be crowding out the "
        "others, or its prompts are longer."
        + (f" The {whole(left_out)} smallest parts are left out." if left_out else ""),
        "Cumulative distributions of TTFT: "
        + "; ".join(f"{part.name} {_in_words(part.ttft_ms)}" for part in parts),
        figure,
    )


@style.house_style
def itl_histogram(run: Run) -> Plot:
    """How often each gap between tokens came."""
    figure = style.figure(2.7)
    axes = figure.subplots()
    gaps, step = series.some_gaps_ms(run.requests)
    marked = run.summary.overall.itl_ms
    if gaps.size == 0:
        style.nothing(axes, "no gaps between tokens were measured")
    else:
        _histogram(axes, gaps, marked)
    return Plot(
        "itl_histogram",
        "Gaps between tokens (ITL)",
        "Both axes are logarithmic where it takes that to see everything, so a low bar far to the "
        "right is a rare, long stall that a reader notices. A gap near zero means that several "
        "parts of an answer arrived together." + _sampled(step),
        f"Histogram of the gaps between tokens: {_in_words(marked)}",
        figure,
    )


def _histogram(axes: Axes, gaps: Floats, marked: Distribution | None) -> None:
    style.duration_axis(axes, "x", gaps)
    low, high = axes.get_xlim()
    spaced = np.geomspace if axes.get_xscale() == "log" else np.linspace
    edges = spaced(low, high, _BARS + 1)
    counts = np.histogram(np.clip(gaps, low, high), edges)[0]
    axes.stairs(counts, edges, fill=True, color=style.BLUE, alpha=0.75, linewidth=0)
    if counts.max() > _LINEAR_COUNTS:
        style.log_count_axis(axes)
    else:
        style.count_axis(axes)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("gaps")
    axes.set_xlabel("gap between tokens")
    handles, labels = list[Artist](), list[str]()
    for (name, ms), look in zip(_marks(marked), style.DASHES, strict=False):
        handles.append(axes.axvline(ms, color=style.INK, linewidth=1.1, linestyle=look))
        labels.append(f"{name} {span(ms)}")
    style.legend(axes, handles, labels)


def _marks(distribution: Distribution | None) -> list[tuple[str, float]]:
    if distribution is None:
        return []
    return [("p50", distribution.p50), ("p90", distribution.p90), ("p99", distribution.p99)]


def curves(
    axes: Axes,
    values_ms: Mapping[str, Floats],
    *,
    limits: Sequence[Limit] = (),
    first_width: float = _LINE_WIDTH,
) -> None:
    """Draw the cumulative distribution of each of these, by name, and limits as upright lines.

    Args:
        first_width: of the first one's line; a wider one is seen beneath another that is equal.
    """
    shown = {name: values for name, values in values_ms.items() if values.size}
    if not shown:
        style.nothing(axes, "nothing was measured")
        axes.set_xticks([])
        return
    widths = chain([first_width], repeat(_LINE_WIDTH))
    handles: list[Artist] = [
        _curve(axes, values, color=colour, linewidth=width)
        for values, colour, width in zip(shown.values(), style.SERIES, widths, strict=False)
    ]
    handles += [
        axes.axvline(line.ms, color=style.RED, linewidth=1.1, linestyle=look)
        for line, look in zip(limits, cycle(style.DASHES), strict=False)
    ]
    names = [style.drawable(name) for name in shown] + [line.label for line in limits]
    style.duration_axis(axes, "x", np.concatenate([*shown.values(), [line.ms for line in limits]]))
    axes.set_ylim(0, 103)
    axes.set_yticks([0, 50, 90, 100])
    axes.set_ylabel("no slower, %")
    style.legend(axes, handles, names)


def _curve(axes: Axes, values: Floats, *, color: str, linewidth: float) -> Artist:
    times, share = series.cdf(values)
    reached = np.percentile(values, _PERCENTILES)
    axes.plot(reached, _PERCENTILES, "o", color=color, markersize=4)
    (line,) = axes.step(
        [times[0], *times], [0.0, *share], where="post", color=color, linewidth=linewidth
    )
    return line


def _in_words(distribution: Distribution | None) -> str:
    if distribution is None:
        return "not measured"
    return (
        f"p50 {number(distribution.p50)} ms, p99 {number(distribution.p99)} ms, "
        f"greatest {number(distribution.max)} ms"
    )


def _sampled(step: int) -> str:
    return f" Of {whole(step)} answers, the gaps of one are shown." if step > 1 else ""
