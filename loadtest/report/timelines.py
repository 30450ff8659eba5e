"""Plots over the time of the run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import polars as pl
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from loadtest.report import series, style
from loadtest.report.limits import Limit, slo_limits
from loadtest.report.run import Run
from loadtest.report.series import Bins, Floats
from loadtest.report.style import Plot
from loadtest.report.words import number, span, whole


@style.house_style
def ttft_over_time(run: Run) -> Plot:
    """TTFT above (latency where nothing was streamed), rates below it, then replicas if known."""
    bins = series.bins(run.requests, run.summary.duration_s)
    name = "TTFT" if run.summary.overall.ttft_ms else "latency"
    metric, replicas = f"{name.lower()}_ms", run.about.replicas
    points = series.points(run.requests, metric)
    heights = (3, 2, 1) if replicas else (3, 2)
    figure = style.figure(1.25 * sum(heights) ** 0.75)
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    step = _times(panels[0], points, bins, slo_limits(run.slo, metric))
    panels[0].set_ylabel(name)
    _rates(panels[1], run.requests, bins)
    if replicas:
        _replicas(panels[2], replicas, bins.edges_s[-1])
    style.time_axis(panels[-1], bins.edges_s[-1])
    figure.align_ylabels()
    overall = run.summary.overall
    return Plot(
        "ttft_over_time",
        f"{name[0].upper()}{name[1:]} over time, against the rate"
        + (" and the replicas" if replicas else ""),
        f"{_said_of_dots(step)}, at the "
        f"time it was due; the lines are percentiles of {span(bins.width_s * 1000)} each. Answers "
        "count when they end. Where the completed rate falls below the offered one, requests pile "
        "up and times grow." + _said_of_replicas(replicas),
        f"{name} over time; {number(overall.offered_rps)} requests/s were offered, "
        f"{number(overall.completed_rps)} completed, {number(overall.goodput_rps)} within limits.",
        figure,
    )


def _said_of_dots(step: int) -> str:
    return "Each dot is a request" if step == 1 else f"Each dot is one of {whole(step)} requests"


def _said_of_replicas(replicas: Sequence[tuple[float, int]]) -> str:
    if replicas:
        return ""
    return " How many replicas served is not known: no Prometheus was named."


def _times(axes: Axes, points: tuple[Floats, Floats], bins: Bins, lines: Sequence[Limit]) -> int:
    at_s, times_ms = points
    step = series.dot_step(at_s.size)
    if not at_s.size:
        style.nothing(axes, "no request was answered whole")
        return step
    axes.plot(
        at_s[::step], times_ms[::step], ".", color=style.GREY, markersize=2.5, alpha=0.45,
        markeredgewidth=0,
    )  # fmt: skip
    handles, labels = list[Artist](), list[str]()
    for q, colour in ((0.99, style.ORANGE), (0.5, style.BLUE)):
        # A bin without a neighbour is a dot, else it would not be seen.
        drawn = bins.quantile(at_s, times_ms, q)
        marker = "o" if np.isfinite(drawn).sum() <= 2 else ""
        handles += axes.plot(bins.centres_s, drawn, color=colour, marker=marker, markersize=4)
        labels.append(f"p{100 * q:g}")
    for line, look in zip(lines, cycle(style.DASHES), strict=False):
        handles.append(axes.axhline(line.ms, color=style.RED, linewidth=1.1, linestyle=look))
        labels.append(line.label)
    style.duration_axis(axes, "y", np.concatenate([times_ms, [line.ms for line in lines]]))
    style.legend(axes, handles, labels)
    return step


def _rates(axes: Axes, requests: pl.DataFrame, bins: Bins) -> None:
    offered = bins.rate(requests["due_s"].to_numpy())
    completed = bins.rate(series.ends_s(requests.filter(outcome="completed")))
    good = bins.rate(series.ends_s(requests.filter(pl.col("is_good"))))
    handles: list[Artist] = [
        axes.stairs(offered, bins.edges_s, fill=True, color=style.GREY, alpha=0.35, linewidth=0),
        axes.stairs(good, bins.edges_s, fill=True, color=style.GREEN, alpha=0.6, linewidth=0),
        style.outline(axes, completed, bins.edges_s, style.BLUE),
    ]
    style.legend(axes, handles, ["offered", "goodput", "completed"])
    style.rate_axis(axes, "requests/s", max(offered.max(), completed.max()))


def _replicas(axes: Axes, replicas: Sequence[tuple[float, int]], last_s: float) -> None:
    at_s, count = zip(*replicas, strict=True)
    axes.stairs(count, [*at_s, max(last_s, at_s[-1])], fill=True, color=style.PURPLE, alpha=0.6)
    style.count_axis(axes, most_ticks=3)
    axes.set_ylim(top=max(count) + 1)
    axes.set_ylabel("replicas")
