"""The pictures of a run."""

from __future__ import annotations

from loadtest.report.distributions import itl_histogram, latency_cdfs, ttft_by_part
from loadtest.report.health import errors_over_time, outstanding, send_lag
from loadtest.report.run import Run
from loadtest.report.style import Plot
from loadtest.report.timelines import ttft_over_time


def plots(run: Run) -> tuple[Plot, ...]:
    """Those that have something to show, in the order in which a report shows them.

    Each costs about as much for a million requests as for a thousand, apart from sorting.
    """
    overall = run.summary.overall
    drawn = [ttft_over_time(run), latency_cdfs(run)]
    if overall.itl_ms:
        drawn.append(itl_histogram(run))
    if len(run.summary.parts) > 1:
        drawn.append(ttft_by_part(run))
    drawn.append(outstanding(run))
    if overall.failed:
        drawn.append(errors_over_time(run))
    drawn.append(send_lag(run))
    return tuple(drawn)
