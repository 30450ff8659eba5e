"""A run that never was: two tenants, a spike in the middle, errors while it lasts."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import polars as pl

from loadtest.about import About, WorkerFigures
from loadtest.records import Record, frame
from loadtest.verdict.summary import Check, Distribution, Part, Summary

SPIKE_S = (60.0, 75.0)
_CAPACITY_RPS = 52.0
_CHAT, _BATCH = "tenant-a/chat", "tenant-b/summaries"


def made_up_records(
    *, duration_s: float = 120.0, base_rps: float = 34.0, seed: int = 7
) -> pl.DataFrame:
    """Requests at `base_rps`, 2.6 times as many during the spike, which is more than is served."""
    random, records = Random(seed), list[Record]()
    at_s, queue_s = 0.0, 0.0
    while True:
        rate = base_rps * (2.6 if SPIKE_S[0] <= at_s < SPIKE_S[1] else 1.0)
        gap_s = random.expovariate(rate)
        at_s, queue_s = at_s + gap_s, max(0.0, queue_s + 1 / _CAPACITY_RPS - gap_s)
        if at_s >= duration_s:
            return frame(records)
        records.append(_request(random, len(records), at_s=at_s, queue_s=queue_s))


def _request(random: Random, index: int, *, at_s: float, queue_s: float) -> Record:
    lag_s = random.lognormvariate(-7.6, 0.5) * (4 if queue_s > 1 else 1)
    traffic = _CHAT if random.random() < 0.7 else _BATCH
    planned = Record(index, 0, traffic, "demo", is_stream=True, due_s=at_s, send_lag_s=lag_s)
    if queue_s > 4 and random.random() < 0.35:
        return _failed(planned, "rate_limit_exceeded", status=429, latency_s=lag_s + 0.004)
    if random.random() < 0.004:
        return _failed(planned, "connection_reset", status=0, latency_s=lag_s + random.random())
    ttft_s = lag_s + queue_s + random.lognormvariate(-2.9 if traffic == _CHAT else -1.6, 0.35)
    tokens = random.randint(20, 120)
    gaps = [
        random.lognormvariate(-4.1, 0.3) * (9 if random.random() < 0.004 else 1)
        for _ in range(tokens - 1)
    ]
    answered = _answered(planned, ttft_s=ttft_s, gaps=gaps)
    if random.random() < 0.01:
        return _cancelled(answered)
    return answered


def _answered(record: Record, *, ttft_s: float, gaps: Sequence[float]) -> Record:
    prompt = 300 if record.traffic == _CHAT else 2400
    return _changed(
        record, ttft_s=ttft_s, latency_s=ttft_s + sum(gaps), itl_s=array("f", gaps).tobytes(),
        prompt_tokens=prompt, cached_tokens=prompt // 3, output_tokens=len(gaps) + 1, status=200,
    )  # fmt: skip


def _failed(record: Record, code: str, *, status: int, latency_s: float) -> Record:
    return _changed(record, error=code, status=status, latency_s=latency_s)


def _cancelled(record: Record) -> Record:
    return _changed(record, cancelled=True)


def _changed(record: Record, **changes: object) -> Record:
    for name, value in changes.items():
        setattr(record, name, value)
    return record


def summary_of(records: pl.DataFrame, *, ttft_limit_ms: float = 1500.0) -> Summary:
    """What a run amounts to by an SLO on TTFT p99, ITL p99 and the share of failures."""
    duration_s = float(records["due_s"].max() or 0.0)
    overall = _part(records, "all", duration_s)
    parts = tuple(
        _part(records.filter(pl.col("traffic") == name), name, duration_s)
        for name in records["traffic"].unique(maintain_order=True)
    )
    checks = _checks(overall, ttft_limit_ms)
    missed = [check for check in checks if not check.met]
    reasons = tuple(f"{check.what} is {check.measured}, above {check.limit}" for check in missed)
    verdict = "fail" if missed else "pass"
    return Summary(duration_s, overall, parts, checks, verdict, reasons or ("every limit is met",))


def _checks(overall: Part, ttft_limit_ms: float) -> tuple[Check, ...]:
    failed_ratio = overall.failed / max(1, overall.requests)
    wanted: list[tuple[str, float, float | None]] = [
        ("percentiles.ttft_ms.p99", ttft_limit_ms, overall.ttft_ms and overall.ttft_ms.p99),
        ("percentiles.itl_ms.p99", 60.0, overall.itl_ms and overall.itl_ms.p99),
        ("error_ratio", 0.05, failed_ratio),
    ]
    return tuple(
        Check(what, limit, value, met=value is not None and value <= limit)
        for what, limit, value in wanted
    )


def _part(records: pl.DataFrame, name: str, duration_s: float) -> Part:
    done = records.filter(pl.col("error").is_null() & ~pl.col("cancelled"))
    seconds = duration_s or 1.0
    tokens: Callable[[str], int] = lambda column: int(done[column].sum() or 0)  # noqa: E731
    tpot = (done["latency_s"] - done["ttft_s"]) / (done["output_tokens"] - 1)
    return Part(
        name=name, requests=records.height, completed=done.height,
        failed=records["error"].count(), cancelled=int(records["cancelled"].sum()),
        offered_rps=records.height / seconds, completed_rps=done.height / seconds,
        goodput_rps=done.filter(pl.col("ttft_s") < 1.5).height / seconds,
        output_tokens_per_s=tokens("output_tokens") / seconds,
        prompt_tokens=tokens("prompt_tokens"), cached_tokens=tokens("cached_tokens"),
        output_tokens=tokens("output_tokens"),
        ttft_ms=_distribution(done["ttft_s"]),
        itl_ms=_distribution(done["itl_s"].explode(empty_as_null=False)),
        tpot_ms=_distribution(tpot), latency_ms=_distribution(done["latency_s"]),
        send_lag_ms=_distribution(records["send_lag_s"]),
        errors=Counter(records["error"].drop_nulls().to_list()),
    )  # fmt: skip


def _distribution(seconds: pl.Series) -> Distribution | None:
    values = seconds.drop_nulls().to_numpy() * 1000
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    p50, p90, p95, p99 = (float(q) for q in np.quantile(values, (0.5, 0.9, 0.95, 0.99)))
    return Distribution(values.size, float(values.mean()), p50, p90, p95, p99, float(values.max()))


def made_up_about(*, title: str = "Spike of two tenants") -> About:
    return About(
        url="http://galerne.example:8000/v1", title=title,
        started_at="2026-03-04T05:06:07+00:00", duration_s=120.0, seed=7,
        workload={
            "duration_s": 120,
            "traffic": [
                {"name": _CHAT, "arrivals": {"poisson": {"rate_rps": 24}}, "prompt_tokens": 300},
                {"name": _BATCH, "arrivals": {"poisson": {"rate_rps": 10}}, "prompt_tokens": 2400},
            ],
        },
        slo={"percentiles": {"ttft_ms": {"p99": 1500}, "itl_ms": {"p99": 60}}, "error_ratio": 0.05},
        workers=(WorkerFigures(host="load-1", cpu_ratio=0.41, loop_lag_p99_ms=1.2),
                 WorkerFigures(host="load-2", cpu_ratio=0.87, loop_lag_p99_ms=6.8)),
        machine={"cpu": "Some CPU @ 2.4 GHz", "cores": 16, "memory": "64 GiB", "python": "3.11.9",
                 "versions": {"galerne": "0.6.0", "vllm": "0.32.0"}},
        replicas=((0.0, 2), (66.0, 3), (71.0, 4), (104.0, 3)),
    )  # fmt: skip
