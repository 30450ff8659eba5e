"""What the laboratory foretells of a fleet is what simulated engines then do, by the clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from serving.core.types import ModelId
from serving.lab.demand import Demand
from serving.lab.fleet import Slo, VirtualFleet, rules_of
from serving.lab.replay import Floats
from serving.lab.scaling import goodput_ratio
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings, TimingSettings
from serving.simulator.generation import Prompt, Sampling
from serving.simulator.launch import SimulatedEngine, build_engine

SPAN_S = 30
BURSTS = ((3.0, 8.0), (17.0, 21.0), (27.0, 28.5))
CALM_PER_S, BURST_PER_S = 5.0, 12.0

FIRST = 2
COLD_START_S = 4.0
TARGETS = {6: 4, 15: 2, 22: 3}
"""Replicas wanted from each second on: two start, two drain, one starts."""

# Steps of 30 to 100 ms and limits that few requests are near, so that a process which wakes 20 ms
# late changes nothing. Most full steps take about 100 ms: that as the limit would toss a coin.
SLO = Slo(ttft_s=1.0, itl_s=0.09)
SIMULATOR = SimulatorSettings(
    timing=TimingSettings(
        step_s=0.03,
        prefill_tokens_per_s=5000,
        decode_s_per_sequence=0.001,
        attention_s_per_token=1e-6,
        overhead_s=0.005,
    ),
    kv_blocks=2000,
)
MODEL = ModelSettings(
    simulator=SIMULATOR, engine=EngineSettings(max_num_batched_tokens=256, max_num_seqs=24)
)


def bursts(seed: int) -> Demand:
    """Random arrivals, more than twice as many in bursts, and random lengths."""
    rng = np.random.default_rng(seed)
    at_s = np.sort(rng.uniform(0.0, SPAN_S, rng.poisson(BURST_PER_S * SPAN_S)))
    in_burst = np.any([(begin <= at_s) & (at_s < end) for begin, end in BURSTS], axis=0)
    at_s = at_s[in_burst | (rng.random(at_s.size) < CALM_PER_S / BURST_PER_S)]
    return Demand(
        at_s,
        np.clip(rng.lognormal(5.7, 0.7, at_s.size), 16, 2000).astype(np.int64),
        np.clip(rng.lognormal(3.2, 0.6, at_s.size), 2, 200).astype(np.int64),
    )


@dataclass(frozen=True, slots=True)
class Result:
    """What became of the requests, and the seconds of replicas until the last one came."""

    goodput_ratio: float
    ttft_s: Floats
    replica_s: float

    def __str__(self) -> str:
        middle, high = np.quantile(self.ttft_s, (0.5, 0.9))
        return (
            f"goodput {self.goodput_ratio:.1%}, TTFT p50 {middle:.3f} s and p90 {high:.3f} s, "
            f"{self.replica_s:.1f} replica seconds"
        )


def foretold(demand: Demand) -> Result:
    """By the laboratory."""
    fleet = VirtualFleet(
        demand, rules_of(MODEL, SLO),
        cold_start_s=COLD_START_S, num_ready=FIRST, max_replicas=8,
    )  # fmt: skip
    for second in range(1, SPAN_S + 1):
        fleet.advance(second)
        if second in TARGETS:
            fleet.scale(TARGETS[second])
    replica_s = fleet.replica_s
    fleet.advance(SPAN_S + 60.0)
    ttft_s = fleet.state.requests.first_token_s - demand.at_s
    return Result(goodput_ratio(fleet, SLO), ttft_s, replica_s)


@dataclass(slots=True, eq=False)
class Replica:
    """A simulated engine and the clients that it was given."""

    engine: SimulatedEngine
    ordered_s: float
    clients: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def num_tokens_before(self) -> int:
        """What a further request would wait for, as the laboratory counts it."""
        load = self.engine.load()
        return load.waiting_tokens + load.running


class RealFleet:
    """Simulated engines in this process that serve a demand in the event loop's time, given
    requests, started and drained as the laboratory does it."""

    def __init__(self, demand: Demand) -> None:
        self._demand = demand
        self._begun_s = asyncio.get_running_loop().time()
        self._ready: list[Replica] = []
        self._changes: list[asyncio.Task[None]] = []
        self.first_token_s = np.full(demand.at_s.size, np.inf)
        self.end_s = np.full(demand.at_s.size, np.inf)
        self.replica_s = 0.0

    async def run(self) -> None:
        """Serve every request."""
        for _ in range(FIRST):
            self._add(ordered_s=0.0)
        scaling = asyncio.create_task(self._scale_by_the_clock())
        rng = np.random.default_rng(0)
        for number, at_s in enumerate(self._demand.at_s):
            # None of them begins as another one does: the laboratory has no prefix caches.
            words = rng.integers(16, 100_000, self._demand.prompt_tokens[number]).tolist()
            await self._until(at_s)
            replica = min(self._ready, key=lambda one: one.num_tokens_before)
            client = self._stream(number, Prompt(words, is_chat=True), replica.engine)
            replica.clients.append(asyncio.create_task(client))
        await scaling
        await asyncio.gather(*self._changes)
        for replica in self._ready:
            self.replica_s += SPAN_S - replica.ordered_s
            await self._end(replica)

    async def _stream(self, number: int, prompt: Prompt, engine: SimulatedEngine) -> None:
        wanted = int(self._demand.output_tokens[number])
        stream = engine.loop.generate([prompt], Sampling(max_tokens=wanted, ignore_eos=True))
        await stream.read()
        self.first_token_s[number] = self._now_s
        while not stream.is_finished:
            await stream.read()
        self.end_s[number] = self._now_s

    async def _scale_by_the_clock(self) -> None:
        for at_s, target in TARGETS.items():
            await self._until(at_s)
            idlest_first = sorted(self._ready, key=lambda one: one.engine.load().running)
            for replica in idlest_first[: max(len(self._ready) - target, 0)]:
                self._ready.remove(replica)
                self._changes.append(asyncio.create_task(self._drain(replica)))
            for _ in range(target - len(self._ready)):
                self._changes.append(asyncio.create_task(self._start(ordered_s=at_s)))

    async def _start(self, ordered_s: float) -> None:
        await self._until(ordered_s + COLD_START_S)
        self._add(ordered_s)

    def _add(self, ordered_s: float) -> None:
        clock = asyncio.get_running_loop().time
        engine = build_engine(
            ModelId("sim"), MODEL, None, registry=CollectorRegistry(), clock=clock
        )
        engine.loop.start()
        self._ready.append(Replica(engine, ordered_s))

    async def _drain(self, replica: Replica) -> None:
        await self._end(replica)
        self.replica_s += self._now_s - replica.ordered_s

    async def _end(self, replica: Replica) -> None:
        await asyncio.gather(*replica.clients)
        replica.engine.shutdown()

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._begun_s

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(at_s - self._now_s)


async def served(demand: Demand) -> Result:
    """By simulated engines, measured as their clients do."""
    fleet = RealFleet(demand)
    await fleet.run()
    ttft_s = fleet.first_token_s - demand.at_s
    mean_gap_s = (fleet.end_s - fleet.first_token_s) / np.maximum(demand.output_tokens - 1, 1)
    is_good = (ttft_s <= SLO.ttft_s) & (mean_gap_s <= SLO.itl_s)
    return Result(float(is_good.mean()), ttft_s, fleet.replica_s)


async def test_goodput_and_cost_are_what_the_laboratory_foretells() -> None:
    demand = bursts(seed=5)
    told, real = foretold(demand), await served(demand)
    print(f"\n{demand.at_s.size} requests\nlaboratory:   {told}\nby the clock: {real}")
    assert 0.6 < told.goodput_ratio < 0.9
    assert told.goodput_ratio == pytest.approx(real.goodput_ratio, rel=0.05)
    assert told.replica_s == pytest.approx(real.replica_s, rel=0.05)
