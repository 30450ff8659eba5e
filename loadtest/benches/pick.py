"""What a routing decision costs: its time in a large fleet, and the memory of the prefix index."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import psutil

from loadtest.benches.subjects import progress
from loadtest.figures import Figures, Line, blocks, quantile
from serving import __version__
from serving.core.types import ModelId, ReplicaEndpoint, ReplicaId
from serving.gateway.fleet import Fleet
from serving.gateway.pool_settings import PoolSettings, QueueLimits
from serving.gateway.replica_states import ReplicaState
from serving.protocol.state_frames import CacheLayout, LoadReport
from serving.routing.policies import kv_aware
from serving.routing.prefix_index import CacheGroup, PrefixIndex
from serving.routing.snapshots import RequestProfile
from serving.settings.routing import RoutingWeights

BENCH = "pick"
SUBJECT = "galerne"

_MODEL = ModelId("m")
_BLOCK_SIZE = 16
_NUM_PARTS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """A fleet of `replicas` whose caches fill the index, and prompts of `prompt_tokens`, the first
    half of which one replica in eight has. Then `num_requests` go through the index."""

    replicas: int = 64
    prompt_tokens: int = 32_768
    max_entries: int = 2_000_000
    num_picks: int = 2000
    num_requests: int = 1_000_000


class _Told:
    """Replicas that have all told their state just now."""

    def __init__(self, replicas: Sequence[ReplicaId], rng: Random) -> None:
        layout = CacheLayout(_BLOCK_SIZE, 31_250, (None,))
        loads = (rng.randrange(64) for _ in replicas)
        reports = (LoadReport(n, 0, 100 * n, 20_000.0, 300 * n, n, False) for n in loads)
        self._states = {
            replica: ReplicaState(report, layout, time.monotonic())
            for replica, report in zip(replicas, reports, strict=True)
        }

    def state(self, replica: ReplicaId) -> ReplicaState:
        return self._states[replica]

    def silent_s(self, _replica: ReplicaId) -> float:
        return 0.0


def bench(plan: Plan) -> tuple[list[Line], dict[str, str]]:
    """The figures."""
    figures, rng = Figures(), Random(0)
    replicas = [ReplicaId(f"replica-{number}") for number in range(plan.replicas)]
    index = PrefixIndex([CacheGroup()], max_entries=plan.max_entries)
    before = _rss_mib()
    names = itertools.count(1)
    _fill(index, replicas, names, plan.max_entries)
    filled = _rss_mib()
    figures.add(f"index of {plan.max_entries:,} entries", SUBJECT, filled - before, unit="MiB")
    progress(f"{BENCH}: index filled, {filled - before:.0f} MiB")

    case = f"pick among {plan.replicas} replicas, {plan.prompt_tokens:,} tokens"
    took_ms = [1000 * seconds for seconds in _picks(plan, index, replicas, names, rng)]
    for part in blocks(took_ms, _NUM_PARTS):
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            figures.add(f"{case}: {name}", SUBJECT, quantile(part, share), unit="ms")

    index = PrefixIndex([CacheGroup()], max_entries=plan.max_entries)
    for number in range(plan.num_requests):
        replica = replicas[number % len(replicas)]
        index.store(replica, itertools.islice(names, rng.randrange(1, 60)))
        if number % (plan.num_requests // 5) == 0 and index.num_entries >= plan.max_entries * 0.9:
            figures.add("RSS while a million requests pass", SUBJECT, _rss_mib(), unit="MiB")
    figures.add("entries after a million requests", SUBJECT, index.num_entries, unit="entries")
    return figures.lines(), {SUBJECT: __version__}


def _fill(
    index: PrefixIndex, replicas: Sequence[ReplicaId], names: Iterator[int], num_entries: int
) -> None:
    for replica in replicas:
        index.store(replica, itertools.islice(names, num_entries // len(replicas)))


def _picks(
    plan: Plan,
    index: PrefixIndex,
    replicas: Sequence[ReplicaId],
    names: Iterator[int],
    rng: Random,
) -> Iterator[float]:
    """Seconds that looking a prompt up and choosing take, prompt by prompt."""
    told = _Told(replicas, rng)
    policy, limits = kv_aware(RoutingWeights(), node_id="n"), QueueLimits(100, 30.0, 10.0)
    fleet = Fleet(
        {_MODEL: PoolSettings(1024, policy, 10.0, told, limits)},
        rng=rng,
        now=time.monotonic,
    )
    fleet.update(
        _MODEL,
        [
            ReplicaEndpoint(name, "http://x", metrics_url="", node_id="n", pid=1, version="v")
            for name in replicas
        ],
    )
    num_blocks = (plan.prompt_tokens - 1) // _BLOCK_SIZE
    for _ in range(plan.num_picks):
        prompt = list(itertools.islice(names, num_blocks))
        for replica in rng.sample(replicas, len(replicas) // 8):
            index.store(replica, prompt[: num_blocks // 2])
        begun = time.perf_counter()
        hits = {name: n * _BLOCK_SIZE for name, n in index.hits(prompt).items()}
        profile = RequestProfile(plan.prompt_tokens, 256, hit_tokens=hits)
        decision = fleet.decide(_MODEL, profile)
        took_s = time.perf_counter() - begun
        assert decision.replica is not None
        yield took_s


def _rss_mib() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20
