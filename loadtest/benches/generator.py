"""What the load generator itself can do: requests per second of one worker, and how late it is.

The server is `fake_engine.py`, which answers at once. It takes a core of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import uvloop

from loadtest.benches.subjects import progress
from loadtest.engines import MODEL, Timing, engine
from loadtest.figures import Figures, Line
from loadtest.generator.run import Moment, Plan, Result, load
from loadtest.generator.target import Target
from loadtest.workload.spec import to_workload
from serving import __version__

BENCH = "generator"
SUBJECT = "galerne load"

_TIMING = Timing(overhead_s=0.0, interval_s=0.02)


@dataclass(frozen=True, slots=True)
class Load:
    """Rates of requests for so many tokens each, streamed or in one piece."""

    name: str
    rates: tuple[int, ...]
    num_tokens: int
    is_stream: bool


LOADS = (
    Load("whole answers", (1000, 3000, 5000, 8000, 12_000), 1, is_stream=False),
    Load("streams of 64 tokens", (50, 100, 200, 400), 64, is_stream=True),
)


@dataclass(frozen=True, slots=True)
class Steps:
    """How long each rate is held, and how often."""

    duration_s: float = 5.0
    rounds: int = 3


def bench(steps: Steps) -> tuple[list[Line], dict[str, str]]:
    """The figures."""
    figures = Figures()
    with engine("fake", _TIMING) as server:
        for asked in LOADS:
            for rate in asked.rates:
                case = f"{asked.name}, {rate}/s"
                for result in _runs(server.url, asked, rate, steps):
                    _add(figures, case, result)
                progress(f"{BENCH}: {case}")
    return figures.lines(), {SUBJECT: __version__}


def _runs(url: str, asked: Load, rate: int, steps: Steps) -> Iterator[Result]:
    traffic = {
        "model": MODEL,
        "stream": asked.is_stream,
        "arrivals": f"poisson:{rate}",
        "prompt_tokens": 32,
        "output_tokens": asked.num_tokens,
    }
    workload = to_workload({"duration_s": steps.duration_s, "traffic": {"load": traffic}})
    plan = Plan(Target.parse(url), workload)
    for _ in range(steps.rounds):
        yield uvloop.run(load(plan, _unwatched, asyncio.Event()))


def _unwatched(_moment: Moment) -> None: ...


def _add(figures: Figures, case: str, result: Result) -> None:
    found, (worker,) = result.records, result.about.workers
    sent_s = found.select((pl.col("due_s") + pl.col("send_lag_s")).max()).item()
    lasted_s = found.select((pl.col("due_s") + pl.col("latency_s")).max()).item()
    lag_ms = found["send_lag_s"] * 1000
    for name, value, unit in (
        ("sent", found.height / sent_s, "requests/s"),
        ("send lag p50", lag_ms.quantile(0.5, "linear"), "ms"),
        ("send lag p99", lag_ms.quantile(0.99, "linear"), "ms"),
        ("CPU of the worker", worker.cpu_ratio, "cores"),
        ("CPU per request", 1e6 * worker.cpu_ratio * lasted_s / found.height, "µs"),
    ):
        figures.add(f"{case}: {name}", SUBJECT, float(value or 0.0), unit=unit)
    failed = found["error"].len() - found["error"].null_count()
    figures.add(f"{case}: failed", SUBJECT, failed, unit="requests", pick="max")
