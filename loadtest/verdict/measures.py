"""What became of each request, its figures in ms, and quantiles of them.

Figures are rounded to whole microseconds: finer than any clock here is good for, and coarse enough
to hide that gaps are kept as float32, so that what takes exactly its limit keeps it.
"""

from __future__ import annotations

from functools import reduce
from operator import and_
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from loadtest.verdict.slo import RequestLimits, Slo
from loadtest.verdict.summary import Distribution

MS_DIGITS = 3
"""Of figures in ms: whole microseconds."""
MOST_UNCOUNTED_TOKENS = 1
"""By so many the usages of two servers differ for one and the same answer: some count the token
that ends it."""
_QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)


def measured(records: pl.DataFrame, slo: Slo | None) -> pl.DataFrame:
    """`records` with what became of each and how long it took.

    `outcome` is completed, failed or cancelled; `error` is set for every failed one. Of completed
    ones there are `latency_ms` and, where they were streamed, `ttft_ms`, `itl_ms` (the longest gap)
    and `tpot_ms` = (last token - first token) / (output tokens - 1), `null` for one token or part,
    or where the server named none. Those of others stay `null`: how long a refusal took, or half an
    answer, is no latency. `is_good`: it was completed and keeps the limits of its part of the
    workload. `ended_early`: it was completed, and has fewer tokens than it was to have exactly.
    """
    is_whole = pl.col("error").is_null() & pl.col("latency_s").is_not_null()
    outcome = (
        pl.when(pl.col("cancelled") & pl.col("error").is_null())
        .then(pl.lit("cancelled"))
        .when(is_whole)
        .then(pl.lit("completed"))
        .otherwise(pl.lit("failed"))
    )
    found = records.with_columns(outcome.alias("outcome")).with_columns(
        pl.when(outcome="failed").then(pl.col("error").fill_null("unfinished")).alias("error")
    )
    return found.with_columns(**_figures()).with_columns(
        is_good=_is_good(slo), ended_early=_ended_early()
    )


def _figures() -> dict[str, pl.Expr]:
    completed = pl.col("outcome") == "completed"
    streamed = completed & pl.col("is_stream")
    gaps_s = pl.col("itl_s").list
    exact_gaps_s = pl.col("itl_s").cast(pl.List(pl.Float64)).list
    further_tokens = pl.col("output_tokens") - 1
    # All tokens in one part, as from a proxy that holds answers back: nothing was measured.
    has_further = streamed & pl.col("ttft_s").is_not_null() & (further_tokens > 0)
    has_further &= gaps_s.len() > 0
    return {
        "send_lag_ms": _ms(pl.col("send_lag_s")),
        "latency_ms": pl.when(completed).then(_ms(pl.col("latency_s"))),
        "ttft_ms": pl.when(streamed).then(_ms(pl.col("ttft_s"))),
        "itl_ms": pl.when(streamed).then(_ms(gaps_s.max())),
        "tpot_ms": pl.when(has_further).then(_ms(exact_gaps_s.sum() / further_tokens)),
    }


def _ended_early() -> pl.Expr:
    completed = pl.col("outcome") == "completed"
    least = pl.col("planned_output_tokens") - MOST_UNCOUNTED_TOKENS
    is_short = (pl.col("output_tokens") < least).fill_null(value=False)
    return completed & pl.col("ignore_eos") & is_short


def _ms(seconds: pl.Expr) -> pl.Expr:
    return (seconds.cast(pl.Float64) * 1000).round(MS_DIGITS)


def _is_good(slo: Slo | None) -> pl.Expr:
    completed = pl.col("outcome") == "completed"
    if slo is None:
        return completed
    kept = _keeps(slo.request)
    for traffic in slo.traffic:
        is_part = pl.col("traffic") == traffic
        kept = pl.when(is_part).then(_keeps(slo.request_limits(traffic))).otherwise(kept)
    return completed & kept


def _keeps(limits: RequestLimits | None) -> pl.Expr:
    """Whether a completed request keeps these limits."""
    if limits is None:
        return pl.lit(value=True)
    not_there = {
        "ttft_ms": pl.lit(value=False),
        "itl_ms": pl.lit(value=True),
        "tpot_ms": pl.col("output_tokens").fill_null(0) == 1,
        "latency_ms": pl.lit(value=False),
    }
    kept = []
    for name, limit_ms in limits.limits():
        keeps = (pl.col(name) <= limit_ms).fill_null(not_there[name])
        kept.append(keeps if name == "latency_ms" else keeps | ~pl.col("is_stream"))
    return reduce(and_, kept)


def gaps_ms(found: pl.DataFrame) -> NDArray[np.float32]:
    """[num_gaps]: every gap of every completed stream of `measured` requests."""
    streamed = found.filter((pl.col("outcome") == "completed") & pl.col("is_stream"))
    gaps = streamed["itl_s"].explode(empty_as_null=False, keep_nulls=False)
    return gaps.to_numpy() * np.float32(1000)


def distribution(values_ms: NDArray[Any]) -> Distribution | None:
    """Of these measurements, [num_values] in any order; `None` of none.

    Quantile q of n values is at place q (n - 1) of the sorted ones, counted from 0, and on the
    straight line between its neighbours.

    Source: Hyndman & Fan, "Sample Quantiles in Statistical Packages", 1996, definition 7, which is
    numpy's default.

    >>> distribution(np.array([4.0, 1.0, 3.0, 2.0])).p50
    2.5
    """
    if not values_ms.size:
        return None
    mean = values_ms.mean(dtype=np.float64)
    rounded = np.round([mean, *np.quantile(values_ms, _QUANTILES)], MS_DIGITS)
    return Distribution(values_ms.size, *rounded.tolist())
