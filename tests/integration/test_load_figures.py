"""What the load generator reports, against a server whose delays are known beforehand."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from loadtest.exact_server import Delays, exact_server
from loadtest.generator.connection import Connections
from loadtest.generator.dialects import WIRES
from loadtest.generator.sender import Limits, Sender
from loadtest.generator.target import Composer, Target
from loadtest.generator.wire import Wording
from loadtest.records import frame
from loadtest.verdict.summarize import summarize
from loadtest.verdict.summary import Distribution, Part
from loadtest.workload.request import Session, Turn

Floats = NDArray[np.float64]
RATE = 100.0
NUM_REQUESTS = 200
NUM_TRIES = 8
NUM_GAPS = 9
TOLERANCE_MS = 1.0


def made_up_delays(rng: np.random.Generator) -> list[Delays]:
    """Evenly spread: nowhere are they so thin that one odd request moves a percentile far."""
    return [
        Delays(float(rng.uniform(0.02, 0.12)), rng.uniform(0.005, 0.03, NUM_GAPS).tolist())
        for _ in range(NUM_REQUESTS)
    ]


@dataclass(frozen=True, slots=True)
class Run:
    """What was reported, what the server knows, and how long the loop was held up at most."""

    part: Part
    known: Mapping[str, Floats]
    stall_ms: float


async def measured(delays: Sequence[Delays], rng: np.random.Generator) -> Run:
    at_s = np.cumsum(rng.exponential(1 / RATE, len(delays)))
    sessions = (
        Session(index, float(due_s), "t", (Turn(1, NUM_GAPS + 1, (index,)),))
        for index, due_s in enumerate(at_s)
    )
    async with exact_server(delays) as server:
        wording = Wording("m", True, True, 0.0)
        sender = Sender(
            sessions,
            {"t": Composer.make(Target(server.url), WIRES["chat"], wording, None)},
            Connections(server.url),
            prompt=lambda turn: b"answer %d" % turn.blocks[0],
            limits=Limits(timeout_s=30.0),
        )
        begun = time.perf_counter() + 0.1
        await sender.run(begun)
        records = frame(sender.take_records())
    part = summarize(records, duration_s=float(at_s[-1]), slo=None, workers=()).overall
    times = np.array([server.times[index] for index in range(len(delays))])
    return Run(part, known_ms(begun + at_s, times), max(sender.loop_lags_s) * 1000)


def known_ms(due: Floats, times: Floats) -> dict[str, Floats]:
    """The figures of each request by the server's own account.

    Args:
        due: [num_requests], when each was due.
        times: [num_requests, NUM_GAPS + 2], when its tokens left, and its end.
    """
    gaps = np.diff(times[:, :-1], axis=1)
    found = {
        "ttft_ms": times[:, 0] - due,
        "itl_ms": gaps.ravel(),
        "latency_ms": times[:, -1] - due,
        "tpot_ms": gaps.mean(axis=1),
    }
    return {name: seconds * 1000 for name, seconds in found.items()}


def errors_ms(found: Distribution | None, known: Floats) -> list[float]:
    """By how much each percentile that is reported is too great."""
    assert found is not None
    expected = np.quantile(known, (0.5, 0.9, 0.95, 0.99))
    return list(np.array([found.p50, found.p90, found.p95, found.p99]) - expected)


async def test_reported_percentiles_are_right_to_a_millisecond() -> None:
    """Of a run in which nothing else held up the event loop that server and generator share."""
    rng = np.random.default_rng(0)
    delays = made_up_delays(rng)
    for _ in range(NUM_TRIES):
        run = await measured(delays, rng)
        if run.stall_ms <= TOLERANCE_MS:
            break
    else:
        pytest.skip(f"this machine is too busy: it held up {NUM_TRIES} runs by more than a ms")

    assert run.part.completed == NUM_REQUESTS
    for metric, values in run.known.items():
        found = errors_ms(getattr(run.part, metric), values)
        assert np.all(np.abs(found) <= TOLERANCE_MS), f"{metric}: {found}"
