"""The pictures of a run."""

from __future__ import annotations

import polars as pl

from loadtest.about import About
from loadtest.report.distributions import itl_histogram, latency_cdfs, ttft_by_part
from loadtest.report.health import errors_over_time, outstanding, send_lag
from loadtest.report.style import Plot
from loadtest.report.timelines import ttft_over_time
from loadtest.verdict.summary import Summary


def plots(records: pl.DataFrame, summary: Summary, about: About) -> tuple[Plot, ...]:
    """Those that have something to show, in the order in which a report shows them.

    Each costs about as much for a million requests as for a thousand, apart from sorting.
    """
    drawn = [ttft_over_time(records, summary, about), latency_cdfs(records, summary)]
    if summary.overall.itl_ms:
        drawn.append(itl_histogram(records, summary))
    if len(summary.parts) > 1:
        drawn.append(ttft_by_part(records, summary))
    drawn.append(outstanding(records, summary))
    if summary.overall.failed:
        drawn.append(errors_over_time(records, summary))
    drawn.append(send_lag(records, summary))
    return tuple(drawn)
