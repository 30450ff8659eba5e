"""From the records of a run to its summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from loadtest.about import WorkerFigures
from loadtest.verdict.checks import checks, conclude
from loadtest.verdict.measures import distribution, gaps_ms, measured
from loadtest.verdict.slo import Slo
from loadtest.verdict.summary import Distribution, Part, Summary


def summarize(
    records: pl.DataFrame,
    *,
    duration_s: float,
    slo: Slo | None,
    workers: Sequence[WorkerFigures],
    is_whole: bool = True,
) -> Summary:
    """A run in figures, with its verdict.

    Latencies are those of completed requests. Whatever failed has none, and is counted against
    `attainment_ratio` and `failed_ratio` instead: otherwise a server would look the better the more
    requests it gave up.

    Args:
        records: as `loadtest.records.frame` makes them.
        duration_s: how long requests were due, later turns apart; 0 where all were due at once.
        is_whole: whether it came to its end. What waited for an answer when it was stopped has no
            record, and that is what took long: such a run has figures but no verdict.
    """
    found = measured(records, slo)
    span = _span(found, duration_s)
    overall = _part("all", found, span)
    parts = _parts(found, overall, span)
    checked = checks(slo, overall, parts) if slo else ()
    verdict, reasons = conclude(
        overall, checked, workers, has_slo=slo is not None, is_whole=is_whole
    )
    return Summary(duration_s, overall, parts, checked, verdict, reasons)


@dataclass(frozen=True, slots=True)
class _Span:
    """Seconds in which requests were due, and until the last answer ended."""

    due_s: float
    ended_s: float


def _span(found: pl.DataFrame, duration_s: float) -> _Span:
    """Requests that were all due at once were due until the last answer ended: no rate is infinite.
    Where nothing took any time both are 0. A request that failed, perhaps of a long timeout, is no
    answer. Later turns of a workload that says no end may be due after its last session began."""
    answered = found.filter(outcome="completed")
    last_s = answered.select((pl.col("due_s") + pl.col("latency_s")).max()).item() or 0.0
    ended_s = max(duration_s, last_s)
    last_turn_s = found.filter(pl.col("turn") > 0).select(pl.col("due_s").max()).item() or 0.0
    due_s = max(duration_s, last_turn_s)
    return _Span(due_s if due_s > 0 else ended_s, ended_s)


def _parts(found: pl.DataFrame, overall: Part, span: _Span) -> tuple[Part, ...]:
    names = found["traffic"].unique().sort().to_list()
    if len(names) == 1:
        return (replace(overall, name=names[0]),)
    return tuple(_part(name, found.filter(traffic=name), span) for name in names)


def _part(name: str, found: pl.DataFrame, span: _Span) -> Part:
    outcomes = dict(found["outcome"].value_counts().iter_rows())
    completed, cancelled = outcomes.get("completed", 0), outcomes.get("cancelled", 0)
    good, judged = int(found["is_good"].sum()), found.height - cancelled
    output_tokens = int(found["output_tokens"].sum())
    early = found.filter("ended_early")
    is_uncounted = bool(found.filter(outcome="completed")["output_tokens"].null_count())
    return Part(
        name=name,
        requests=found.height,
        completed=completed,
        failed=outcomes.get("failed", 0),
        cancelled=cancelled,
        offered_rps=_rate(found.height, span.due_s),
        completed_rps=_rate(completed, span.due_s),
        goodput_rps=_rate(good, span.due_s),
        output_tokens_per_s=None if is_uncounted else _rate(output_tokens, span.ended_s),
        prompt_tokens=int(found["prompt_tokens"].sum()),
        cached_tokens=int(found["cached_tokens"].sum()),
        output_tokens=output_tokens,
        ttft_ms=_distribution(found["ttft_ms"]),
        itl_ms=distribution(gaps_ms(found)),
        tpot_ms=_distribution(found["tpot_ms"]),
        latency_ms=_distribution(found["latency_ms"]),
        send_lag_ms=_distribution(found["send_lag_ms"]),
        errors=_errors(found),
        attainment_ratio=good / judged if judged else None,
        ended_early=early.height,
        early_length_ratio=early.select(
            (pl.col("output_tokens") / pl.col("planned_output_tokens")).mean()
        ).item(),
    )


def _distribution(values_ms: pl.Series) -> Distribution | None:
    return distribution(values_ms.drop_nulls().to_numpy())


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _errors(found: pl.DataFrame) -> dict[str, int]:
    counts = found["error"].drop_nulls().value_counts()
    return dict(counts.sort("count", "error", descending=[True, False]).iter_rows())
