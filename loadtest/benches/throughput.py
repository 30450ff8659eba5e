"""Streaming throughput on the same real model: the whole path against bare vLLM."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loadtest.benches.subjects import in_turn, installed, progress
from loadtest.client import Client, Shape, connected, first_error, run
from loadtest.figures import Figures, Line, paired_ratio
from loadtest.peers.base import Peer, Server, UnavailableError

BENCH = "throughput"
BASE = "bare-vllm"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: `rounds` of `num_streams` in each of `restarts` starts of a subject."""

    rounds: int = 6
    restarts: int = 2
    num_streams: int = 16
    num_tokens: int = 64

    @property
    def case(self) -> str:
        return f"{self.num_streams} streams x {self.num_tokens} tokens"


class Round(NamedTuple):
    """One round of parallel streams."""

    chunks_per_s: float
    tokens_per_s: float
    ttft_p50_ms: float
    client_cores: float


def bench(plan: Plan, peers: Sequence[Peer]) -> tuple[list[Line], dict[str, str]]:
    """The figures and the version of each subject."""
    figures = Figures()
    ready, versions = installed(BENCH, peers, figures)

    def measure(peer: Peer) -> None:
        with peer.start((), "") as server:
            rounds = run(_rounds(plan, server))
        _record(plan, peer.name, rounds, figures)

    in_turn(BENCH, ready, figures, restarts=plan.restarts, measure=measure)
    return [*figures.lines(base=BASE), *_ratios(plan, ready, figures)], versions


async def _rounds(plan: Plan, server: Server) -> list[Round]:
    """The measured rounds; one more comes first to warm up."""
    async with connected(server) as client:
        return [await _round(plan, client) for _ in range(plan.rounds + 1)][1:]


async def _round(plan: Plan, client: Client) -> Round:
    begun, cpu_begun = time.perf_counter(), time.process_time()
    streams = await client.streams(Shape(plan.num_tokens), plan.num_streams)
    took_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_begun
    if (error := first_error(streams)) is not None:
        raise UnavailableError(f"a stream failed: {error}")
    ttfts = [stream.ttft_s for stream in streams if stream.ttft_s is not None]
    return Round(
        chunks_per_s=sum(stream.num_chunks for stream in streams) / took_s,
        # Exact, since no stream ends early; engines may put several tokens into one chunk.
        tokens_per_s=plan.num_streams * plan.num_tokens / took_s,
        ttft_p50_ms=1000 * statistics.median(ttfts),
        client_cores=cpu_s / took_s,
    )


def _record(plan: Plan, subject: str, rounds: Sequence[Round], figures: Figures) -> None:
    """One value per start, the median of its rounds."""
    chunks_per_s = statistics.median(entry.chunks_per_s for entry in rounds)
    figures.add(plan.case, subject, chunks_per_s, unit="chunks/s")
    tokens_per_s = statistics.median(entry.tokens_per_s for entry in rounds)
    figures.add(f"{plan.case}, tokens", subject, tokens_per_s, unit="tokens/s")
    ttft_ms = statistics.median(entry.ttft_p50_ms for entry in rounds)
    figures.add(f"{plan.case}, TTFT p50", subject, ttft_ms, unit="ms")
    cores = statistics.median(entry.client_cores for entry in rounds)
    figures.add("load client's CPU", subject, cores, unit="cores")
    progress(f"{BENCH}: {subject}: {chunks_per_s:.1f} chunks/s")


def _ratios(plan: Plan, peers: Sequence[Peer], figures: Figures) -> list[Line]:
    """Ratios start by start, for the subjects measured as often as the base."""
    base = figures.values(plan.case, BASE)
    lines = []
    for peer in peers:
        values = figures.values(plan.case, peer.name)
        if peer.name != BASE and base and len(values) == len(base):
            case = f"{plan.case}, ratio by start"
            lines.append(paired_ratio(case, peer.name, values, against=BASE, base=base))
    return lines
