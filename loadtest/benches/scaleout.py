"""Goodput of Galerne as simulated replicas are added, at a fixed pace per replica."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loadtest import engines
from loadtest.accounting import between, sample
from loadtest.benches.subjects import in_turn, installed, progress
from loadtest.client import Pace, Shape, Stream, connected, first_error, num_failed, run
from loadtest.engines import Timing
from loadtest.figures import Figures, Line
from loadtest.peers.base import RELAYING, Peer, Server

BENCH = "scaleout"
PACE = Timing(overhead_s=0.002, interval_s=0.1)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: `rounds` of `streams_per_replica` streams for each of `replicas`."""

    replicas: tuple[int, ...] = (1, 2, 4, 8, 16)
    restarts: int = 1
    rounds: int = 3
    streams_per_replica: int = 16
    num_tokens: int = 100
    slack_s: float = 0.1


class Goodput(NamedTuple):
    """One round. Chunks in time and all chunks, in the seconds between the first and the last."""

    in_time_per_s: float
    all_per_s: float


def bench(plan: Plan, peers: Sequence[Peer]) -> tuple[list[Line], dict[str, str]]:
    """The figures and the version of each subject; only subjects that simulate their engines."""
    figures = Figures()
    ready, versions = installed(BENCH, peers, figures)

    def measure(peer: Peer) -> None:
        assert peer.simulated is not None
        for replicas in plan.replicas:
            settings = engines.simulator_settings(PACE)
            with peer.simulated(settings, replicas=replicas) as server:
                run(_rounds(plan, server, replicas, figures))

    in_turn(BENCH, ready, figures, restarts=plan.restarts, measure=measure)
    lines = [*figures.lines(), *efficiencies(figures, plan.replicas)]
    return lines, versions


async def _rounds(plan: Plan, server: Server, replicas: int, figures: Figures) -> None:
    subject = subject_name(replicas)
    shape = Shape(plan.num_tokens, pace=Pace(PACE.interval_s, plan.slack_s))
    num_streams = replicas * plan.streams_per_replica
    roles = server.processes()
    async with connected(server) as client:
        await client.streams(Shape(num_tokens=4), num_streams, ramp_s=0.5)
        for _ in range(plan.rounds):
            before, cpu_begun = sample(roles), time.process_time()
            streams = await client.streams(shape, num_streams, ramp_s=PACE.interval_s)
            span, cpu_s = between(before, sample(roles)), time.process_time() - cpu_begun
            result = goodput(streams, span.took_s)
            relaying = sum(span.cores(role) for role in RELAYING)
            figures.add("goodput", subject, result.in_time_per_s, unit="chunks/s")
            figures.add("throughput", subject, result.all_per_s, unit="chunks/s")
            failed = num_failed(streams)
            figures.add("failed streams", subject, failed, unit="streams", pick="max")
            figures.add("gateway's and HAProxy's CPU", subject, relaying, unit="cores")
            figures.add("load client's CPU", subject, cpu_s / span.took_s, unit="cores")
            told = f"{result.in_time_per_s:.0f} chunks/s in time {first_error(streams) or ''}"
            progress(f"{BENCH}: {subject}: {told}")


def subject_name(replicas: int) -> str:
    """How a fleet of this size is called in the figures."""
    return f"galerne, {replicas} replica{'s' if replicas > 1 else ''}"


def goodput(streams: Sequence[Stream], took_s: float) -> Goodput:
    """Chunks per second; those of failed streams are in no goodput.

    >>> goodput([Stream(num_chunks=10, num_in_time=9), Stream(num_chunks=4, error="cut")], 2.0)
    Goodput(in_time_per_s=4.5, all_per_s=7.0)
    """
    in_time = sum(stream.num_in_time for stream in streams if stream.error is None)
    return Goodput(in_time / took_s, sum(stream.num_chunks for stream in streams) / took_s)


def efficiencies(figures: Figures, replicas: Sequence[int]) -> list[Line]:
    """Goodput over what as many single replicas would bring, for each size of fleet.

    >>> figures = Figures()
    >>> figures.add("goodput", subject_name(1), 100.0, unit="chunks/s")
    >>> figures.add("goodput", subject_name(4), 380.0, unit="chunks/s")
    >>> [line.ratio for line in efficiencies(figures, (1, 4))]
    [0.95]
    """
    lines = {line.subject: line for line in figures.lines() if line.case == "goodput"}
    single = lines.get(subject_name(1))
    if single is None or not single.value:
        return []
    return [
        Line("efficiency", subject, round(line.value / (count * single.value), 4), "ratio",
             ratio=round(line.value / (count * single.value), 4), against=f"{count} x one replica")
        for count in replicas
        if count > 1 and (line := lines.get(subject := subject_name(count))) and line.value
    ]  # fmt: skip
