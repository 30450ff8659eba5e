"""Every subject installs, starts, relays one streamed chat completion and stops."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest import engines
from loadtest.benches.subjects import in_turn, installed, progress
from loadtest.client import Shape, Stream, connected, run
from loadtest.engines import Kind, Timing
from loadtest.figures import Figures, Line
from loadtest.peers.base import Peer, Server, UnavailableError

BENCH = "smoke"
TIMING = Timing(overhead_s=0.002, interval_s=0.02)


@dataclass(frozen=True, slots=True)
class Plan:
    """One stream of `num_tokens` tokens."""

    engine: Kind = "fake"
    num_tokens: int = 8


def bench(plan: Plan, peers: Sequence[Peer]) -> tuple[list[Line], dict[str, str]]:
    """The number of chunks that came through each subject, and the version of each."""
    figures = Figures()
    ready, versions = installed(BENCH, peers, figures)

    def measure(peer: Peer) -> None:
        begun = time.monotonic()
        with (
            engines.engine(plan.engine, TIMING) as engine,
            peer.start([engine.url], engine.model) as server,
        ):
            figures.add("start", peer.name, time.monotonic() - begun, unit="s")
            stream = run(_one(plan, server))
            roles = {role: len(pids) for role, pids in server.processes().items()}
        if stream.error is not None:
            raise UnavailableError(stream.error)
        figures.add("one stream", peer.name, stream.num_chunks, unit="chunks")
        progress(f"{BENCH}: {peer.name} {versions[peer.name]}: {stream.num_chunks} chunks, {roles}")

    in_turn(BENCH, ready, figures, restarts=1, measure=measure)
    return figures.lines(), versions


async def _one(plan: Plan, server: Server) -> Stream:
    async with connected(server) as client:
        return await client.stream(Shape(plan.num_tokens))
