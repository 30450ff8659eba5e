"""A run that never was: two tenants, a spike in the middle, errors while it lasts."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from random import Random

import polars as pl

from loadtest.about import About, WorkerFigures
from loadtest.records import Record, frame
from loadtest.report.run import Run
from loadtest.verdict.slo import Slo
from loadtest.verdict.summarize import summarize

SPIKE_S = (60.0, 75.0)
_CAPACITY_RPS = 52.0
_MOST_TOKENS = 120
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
    planned = Record(
        index, 0, traffic, "demo", is_stream=True, due_s=at_s, send_lag_s=lag_s,
        planned_output_tokens=_MOST_TOKENS,
    )  # fmt: skip
    if queue_s > 4 and random.random() < 0.35:
        return _failed(planned, "rate_limit_exceeded", status=429, latency_s=lag_s + 0.004)
    if random.random() < 0.004:
        return _failed(planned, "connection_lost", status=0, latency_s=lag_s + random.random())
    ttft_s = lag_s + queue_s + random.lognormvariate(-2.9 if traffic == _CHAT else -1.6, 0.35)
    tokens = random.randint(20, _MOST_TOKENS)
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


def run_of(records: pl.DataFrame, about: About | None = None) -> Run:
    """All that a report is made from."""
    about = about or made_up_about()
    slo = None if about.slo is None else Slo.model_validate(about.slo)
    summary = summarize(records, duration_s=about.duration_s, slo=slo, workers=about.workers)
    return Run.of(about=about, summary=summary, records=records)


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
        slo={
            "request": {"ttft_ms": 1000.0}, "failed_ratio": 0.05,
            "percentiles": {"ttft_ms": {"p99": 1500.0}, "itl_ms": {"p99": 60.0}},
        },
        workers=(WorkerFigures(host="load-1", cpu_ratio=0.41, loop_lag_p99_ms=1.2),
                 WorkerFigures(host="load-2", cpu_ratio=0.87, loop_lag_p99_ms=2.8)),
        machine={"cpu": "Some CPU @ 2.4 GHz", "cores": 16, "memory": "64 GiB", "python": "3.11.9",
                 "versions": {"galerne": "0.6.0", "vllm": "0.32.0"}},
        replicas=((0.0, 2), (66.0, 3), (71.0, 4), (104.0, 3)),
    )  # fmt: skip
