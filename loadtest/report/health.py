"""Plots of what else happened over the time of the run: failures, queues, a late generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.artist import Artist

from loadtest.report import series, style
from loadtest.report.run import Run
from loadtest.report.style import Plot
from loadtest.report.words import span, whole

_MOST_CODES = 6
_CODE_COLOURS = (
    style.RED, style.ORANGE, style.PURPLE, style.BLUE, style.BROWN, style.CYAN, style.GREY,
)  # fmt: skip


@style.house_style
def errors_over_time(run: Run) -> Plot:
    """How many requests failed, by code, when they were due."""
    overall = run.summary.overall
    errors = overall.errors
    most = sorted(errors, key=lambda code: (-errors[code], code))[:_MOST_CODES]
    bins = series.bins(run.requests, run.summary.duration_s)
    failed = run.requests.filter(outcome="failed")
    figure = style.figure(2.5)
    axes = figure.subplots()
    groups = _by_code(failed, most)
    below, handles = np.zeros(bins.centres_s.size), list[Artist]()
    for rows, colour in zip(groups.values(), _CODE_COLOURS, strict=False):
        top = below + bins.rate(rows["due_s"].to_numpy())
        handles.append(axes.stairs(top, bins.edges_s, baseline=below, fill=True, color=colour))
        below = top
    style.rate_axis(axes, "failed requests/s", below.max())
    style.time_axis(axes, bins.edges_s[-1])
    style.legend(axes, handles, [style.drawable(name) for name in groups])
    return Plot(
        "errors_over_time",
        "Failed requests over time",
        "By error code, stacked, at the time the requests were due. A few together point at one "
        "event, a steady share at a limit that is always there.",
        f"{whole(overall.failed)} of {whole(overall.requests)} requests failed: "
        + ", ".join(f"{name} {whole(errors[name])}" for name in most),
        figure,
    )


def _by_code(failed: pl.DataFrame, most: Sequence[str]) -> dict[str, pl.DataFrame]:
    """The rows of each of these codes, and of all others together."""
    code = pl.col("error")
    groups = {name: failed.filter(code == name) for name in most}
    others = failed.filter(~code.is_in(most))
    return groups if others.is_empty() else {**groups, "other codes": others}


@style.house_style
def outstanding(run: Run) -> Plot:
    """How many requests were under way."""
    at_s, count = series.outstanding(run.requests)
    last_s = series.bins(run.requests, run.summary.duration_s).edges_s[-1]
    unknown = run.requests.height - series.ends_s(run.requests).size
    figure = style.figure(2.3)
    axes = figure.subplots()
    if at_s.size:
        axes.fill_between(at_s, count, step="post", color=style.BLUE, alpha=0.25, linewidth=0)
        axes.step(at_s, count, where="post", color=style.BLUE)
        style.count_axis(axes)
    else:
        style.nothing(axes, "no answer's end is known")
    axes.set_ylabel("requests under way")
    style.time_axis(axes, last_s)
    return Plot(
        "outstanding",
        "Requests under way",
        "Sent and not yet answered. A level that stays is a server that keeps up; one that climbs "
        "for as long as the load lasts is a queue that grows."
        + (f" {whole(unknown)} requests whose end is not known are left out." if unknown else ""),
        f"Requests under way over time, at most {whole(int(count.max(initial=0)))}.",
        figure,
    )


@style.house_style
def send_lag(run: Run) -> Plot:
    """How late the generator sent what was due."""
    bins = series.bins(run.requests, run.summary.duration_s)
    at_s, lag_ms = series.points(run.requests, "send_lag_ms")
    lag = run.summary.overall.send_lag_ms
    figure = style.figure(2.3)
    axes = figure.subplots()
    if lag_ms.size:
        greatest, usual = (bins.quantile(at_s, lag_ms, q) for q in (1.0, 0.5))
        drawn = np.concatenate([greatest, usual])
        style.duration_axis(axes, "y", drawn[np.isfinite(drawn)])
        handles = [
            style.outline(axes, greatest, bins.edges_s, style.ORANGE),
            style.outline(axes, usual, bins.edges_s, style.BLUE),
        ]
        style.legend(axes, handles, ["greatest", "p50"])
    else:
        style.nothing(axes, "nothing was sent")
    axes.set_ylabel("sent late by")
    style.time_axis(axes, bins.edges_s[-1])
    return Plot(
        "send_lag",
        "How late the generator was",
        "From the moment a request was due to the moment it was sent. It is part of every time "
        "above, so a generator that cannot keep up makes the server look slower, never faster.",
        f"Send lag over time: p99 {span(lag.p99)}" if lag else "Send lag: nothing was sent",
        figure,
    )
