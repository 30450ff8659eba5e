"""What became of the requests of a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from loadtest.scenarios.recovery import recovered_after_s
from loadtest.verdict.measures import measured
from loadtest.verdict.slo import Slo
from loadtest.verdict.summary import Distribution

_REFUSALS = (429, 503)
"""How a server says that it is at its limit. Source: RFC 6585, section 4; RFC 9110, 15.6.4."""


def num_refused(records: pl.DataFrame) -> int:
    """Requests that the server refused for want of room."""
    return _refused(records).height


def num_without_retry_after(records: pl.DataFrame) -> int:
    """Refusals that do not say when to come again."""
    return _refused(records)["retry_after_s"].null_count()


def num_broken(records: pl.DataFrame) -> int:
    """Requests that failed otherwise than by being refused."""
    return records.filter(pl.col("error").is_not_null()).height - num_refused(records)


def longest_s(records: pl.DataFrame) -> float:
    """From when a request was due to its end, whatever end that was."""
    return float(records["latency_s"].max() or 0.0)  # type: ignore[arg-type]


def worst_gap_ms(records: pl.DataFrame) -> float:
    """The longest silence within any answer."""
    return 1000 * float(records["itl_s"].explode(empty_as_null=False).max() or 0.0)  # type: ignore[arg-type]


def attained_ratio(records: pl.DataFrame, slo: Slo) -> float | None:
    """The share of completed requests that keep the SLO; `None` of none."""
    completed = measured(records, slo).filter(outcome="completed")
    return completed["is_good"].mean() if completed.height else None  # type: ignore[return-value]


def goodput_rps(records: pl.DataFrame, slo: Slo, *, begin_s: float, end_s: float) -> float:
    """Requests a second that keep the SLO, of those whose answers ended between the two times.

    By when they ended, because a queue that is still short takes in more for a while than the
    server can answer: by when they were due, a short run would show more than can be sustained.
    """
    ended_s = pl.col("due_s") + pl.col("latency_s")
    ended = records.filter(ended_s.is_between(begin_s, end_s, closed="left"))
    return int(measured(ended, slo)["is_good"].sum()) / (end_s - begin_s)


def ttft_p99_ms(records: pl.DataFrame, *, begin_s: float) -> float | None:
    """Of the answers to requests that were due from then on; `None` of none.

    >>> records = pl.DataFrame({"due_s": [0.0, 5.0, 6.0], "ttft_s": [9.0, 0.5, None]})
    >>> ttft_p99_ms(records, begin_s=1.0)
    500.0
    """
    found = records.filter(pl.col("due_s") >= begin_s)["ttft_s"].quantile(0.99, "linear")
    return None if found is None else 1000 * found


def back_after_s(
    records: pl.DataFrame, slo: Slo, *, event_s: float, window_s: float
) -> float | None:
    """Seconds from an event until requests keep the SLO again; see `recovered_after_s`."""
    found = measured(records, slo).filter(pl.col("outcome") != "cancelled")
    return recovered_after_s(
        found["due_s"].to_numpy(),
        found["is_good"].to_numpy(),
        event_s=event_s,
        window_s=window_s,
        attainment_ratio=slo.attainment_ratio,
    )


def quantiles(found: Distribution | None) -> Mapping[str, Any]:
    """The figures that people ask for, in ms."""
    return {name: getattr(found, name, None) for name in ("p50", "p90", "p99", "max")}


def _refused(records: pl.DataFrame) -> pl.DataFrame:
    return records.filter(pl.col("status").is_in(_REFUSALS))
