"""What a gateway adds between an engine and its clients: TTFT, CPU per chunk, memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from loadtest import engines
from loadtest.accounting import Roles, Span, between, microseconds_per, rss_mib, sample
from loadtest.benches.subjects import in_turn, installed, progress
from loadtest.client import Client, Shape, connected, first_error, num_failed, run
from loadtest.engines import Kind, Timing
from loadtest.figures import Figures, Line, blocks, quantile
from loadtest.peers.base import RELAYING, Peer, Server, UnavailableError

BENCH = "relay"
BASE = "galerne"
CASES = ("ttft", "cpu", "hold")

STEADY = Timing(overhead_s=0.002, interval_s=0.05)
SLOW = Timing(overhead_s=0.002, interval_s=1.0)
"""Of the case that holds thousands of streams: what it measures is holding, not moving bytes."""

_IDLE_S = 5.0
_SETTLE_S = 5.0
_NUM_WARM_UP = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured in each of `restarts` starts of a subject."""

    engine: Kind = "fake"
    cases: tuple[str, ...] = CASES
    restarts: int = 2
    num_pairs: int = 200
    num_blocks: int = 4
    rounds: int = 4
    num_streams: int = 64
    num_tokens: int = 100
    num_held: int = 2000
    held_tokens: int = 30
    held_ramp_s: float = 10.0
    num_waves: int = 3


@dataclass(frozen=True, slots=True)
class _Run:
    """One start of one subject."""

    plan: Plan
    subject: str
    server: Server
    figures: Figures

    def add(self, case: str, value: float, unit: str, *, direct: float | None = None) -> None:
        self.figures.add(case, self.subject, value, unit=unit, direct=direct)

    def tell(self, text: str) -> None:
        progress(f"{BENCH}: {self.subject}: {text}")


def bench(
    plan: Plan, peers: Sequence[Peer], *, base: str = BASE
) -> tuple[list[Line], dict[str, str]]:
    """The figures, most of them compared to those of `base`, and the version of each subject."""
    figures = Figures()
    ready, versions = installed(BENCH, peers, figures)

    def measure(peer: Peer) -> None:
        if {"ttft", "cpu"} & set(plan.cases):
            with _server(plan, peer, STEADY) as server:
                this = _Run(plan, peer.name, server, figures)
                if "ttft" in plan.cases:
                    _record_ttft(this)
                if "cpu" in plan.cases:
                    _record_cpu(this)
        if "hold" in plan.cases:
            with _server(plan, peer, SLOW) as server:
                this = _Run(plan, peer.name, server, figures)
                run(_held(this, server.processes()))

    in_turn(BENCH, ready, figures, restarts=plan.restarts, measure=measure)
    return figures.lines(base=base), versions


@contextmanager
def _server(plan: Plan, peer: Peer, timing: Timing) -> Iterator[Server]:
    """The subject over one engine; its `direct` is that engine."""
    if peer.simulated is not None:
        with peer.simulated(engines.simulator_settings(timing)) as server:
            yield server
        return
    with (
        engines.engine(plan.engine, timing) as direct,
        peer.start([direct.url], direct.model) as server,
    ):
        yield replace(server, direct=direct)


def _record_ttft(this: _Run) -> None:
    plan = this.plan
    through, direct = run(_ttft_pairs(this))
    pairs = zip(blocks(through, plan.num_blocks), blocks(direct, plan.num_blocks), strict=True)
    for some, other in pairs:
        for share, name in ((0.5, "p50"), (0.9, "p90")):
            base_ms = 1000 * quantile(other, share)
            added_ms = 1000 * quantile(some, share) - base_ms
            case = f"added TTFT {name}, one stream at a time"
            this.add(case, added_ms, "ms", direct=base_ms)
    this.tell(f"TTFT p50 +{1000 * (quantile(through, 0.5) - quantile(direct, 0.5)):.2f} ms")


async def _ttft_pairs(this: _Run) -> tuple[list[float], list[float]]:
    """TTFT through the subject and of its engine called directly, in seconds, pair by pair; which
    goes first alternates."""
    if this.server.direct is None:
        raise UnavailableError("its engine cannot be called directly")
    async with connected(this.server) as through, connected(this.server.direct) as direct:
        for client in (through, direct):
            for _ in range(_NUM_WARM_UP):
                await _ttft_s(client)
        seen: dict[int, list[float]] = {id(through): [], id(direct): []}
        for number in range(this.plan.num_pairs):
            pair = (through, direct) if number % 2 else (direct, through)
            for client in pair:
                seen[id(client)].append(await _ttft_s(client))
        return seen[id(through)], seen[id(direct)]


async def _ttft_s(client: Client) -> float:
    stream = await client.stream(Shape(num_tokens=2))
    if stream.ttft_s is None or stream.error is not None:
        raise UnavailableError(f"a stream failed: {stream.error}")
    return stream.ttft_s


def _record_cpu(this: _Run) -> None:
    roles = this.server.processes()
    idle = sample(roles)
    time.sleep(_IDLE_S)
    rest = between(idle, sample(roles))
    for role in sorted(roles):
        this.add(f"idle CPU, {role}", rest.cores(role), "cores")
    run(_steady_rounds(this, roles))


async def _steady_rounds(this: _Run, roles: Roles) -> None:
    plan = this.plan
    async with connected(this.server) as client:
        await client.streams(Shape(num_tokens=4), plan.num_streams, ramp_s=0.2)
        for _ in range(plan.rounds):
            before, cpu_begun = sample(roles), time.process_time()
            streams = await client.streams(Shape(plan.num_tokens), plan.num_streams, ramp_s=1.0)
            span, cpu_s = between(before, sample(roles)), time.process_time() - cpu_begun
            if (error := first_error(streams)) is not None:
                raise UnavailableError(f"a stream failed: {error}")
            num_chunks = sum(stream.num_chunks for stream in streams)
            _record_span(this, span, num_chunks)
            this.add("load client's CPU, steady", cpu_s / span.took_s, "cores")


def _record_span(this: _Run, span: Span, num_chunks: int) -> None:
    """CPU per chunk of what stands between engine and client in all, then of each role."""
    used = {role: microseconds_per(num_chunks, cpu_s) for role, cpu_s in span.cpu_s.items()}
    relaying = sum(value for role, value in used.items() if role in RELAYING)
    per_s = this.plan.num_streams / STEADY.interval_s
    this.add(f"CPU per chunk at {per_s:.0f} chunks/s", relaying, "µs")
    for role in sorted(used):
        this.add(f"CPU per chunk, {role} alone", used[role], "µs")
    this.tell(f"{relaying:.1f} µs per chunk")


async def _held(this: _Run, roles: Roles) -> None:
    """Waves of many slow streams: memory after each tells whether the one before left any."""
    case = f"{this.plan.num_held} streams held"
    async with connected(this.server) as client:
        await client.streams(Shape(num_tokens=2), 4)
        this.add(f"{case}: RSS before", rss_mib(sample(roles), RELAYING), "MiB")
        for wave in range(1, this.plan.num_waves + 1):
            client.tally.max_open = 0
            await _wave(this, client, roles, f"{case}: ", wave)
            await asyncio.sleep(_SETTLE_S)
            after_mib = rss_mib(sample(roles), RELAYING)
            this.add(f"{case}: RSS after wave {wave}", after_mib, "MiB")


async def _wave(this: _Run, client: Client, roles: Roles, case: str, wave: int) -> None:
    plan = this.plan
    peak = asyncio.create_task(_peak_mib(plan, roles))
    cpu_begun, begun = time.process_time(), time.monotonic()
    streams = await client.streams(Shape(plan.held_tokens), plan.num_held, ramp_s=plan.held_ramp_s)
    cores = (time.process_time() - cpu_begun) / (time.monotonic() - begun)
    this.add(f"{case}RSS in wave {wave}", await peak, "MiB")
    max_open, failed = client.tally.max_open, num_failed(streams)
    figures = this.figures
    figures.add(f"{case}open at once", this.subject, max_open, unit="streams", pick="min")
    figures.add(f"{case}failed", this.subject, failed, unit="streams", pick="max")
    this.add("load client's CPU, held", cores, "cores")
    this.tell(f"held {max_open}, {failed} failed {first_error(streams) or ''}")


async def _peak_mib(plan: Plan, roles: Roles) -> float:
    """Memory once every stream that will begin has begun."""
    await asyncio.sleep(plan.held_ramp_s + SLOW.interval_s * plan.held_tokens / 3)
    return rss_mib(sample(roles), RELAYING)
