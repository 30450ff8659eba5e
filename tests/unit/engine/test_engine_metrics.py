"""What a replica shows Prometheus of itself."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serving.core.start_record import StartPhase, StartRecord
from serving.core.types import EngineLoad, ModelId, TenantId
from serving.engine.guard import EngineGuard
from serving.engine.lifetime import LifetimeCollector
from serving.engine.metrics import EngineMetrics
from serving.protocol.usage import TokenCounts

MODEL = ModelId("demo")


async def nothing(*_args: Any) -> None:
    pass


class Replica:
    """A guard and its metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.guard = EngineGuard(
            nothing, token="t", max_in_flight=1, version="v", state=dict, stream=nothing
        )
        self.metrics = EngineMetrics(self.registry, model=MODEL, guard=self.guard)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"galerne_engine_{name}", {"model": MODEL, **labels})

    def tokens(self, tenant: str) -> tuple[float | None, ...]:
        """Prompt, cached and output."""
        kinds = ("prompt", "cached", "output")
        return tuple(self.value("tenant_tokens_total", tenant=tenant, kind=kind) for kind in kinds)


@pytest.fixture
async def replica() -> Replica:
    return Replica()


async def test_tokens_add_up_by_tenant(replica: Replica) -> None:
    replica.guard.on_usage(TenantId("ann"), TokenCounts(10, 8, 3))
    replica.guard.on_usage(TenantId("bob"), TokenCounts(5, 0, 1))
    replica.guard.on_usage(TenantId("ann"), TokenCounts(output=4))
    assert replica.tokens("ann") == (10, 8, 7)
    assert replica.tokens("bob") == (5, 0, 1)


async def test_the_number_of_tenants_is_bounded(replica: Replica) -> None:
    for number in range(203):
        # One that takes nothing of the engine leaves room for those who do.
        replica.guard.on_usage(TenantId(f"idle {number}"), TokenCounts())
        replica.guard.on_usage(TenantId(f"tenant {number}"), TokenCounts(1, 0, 1))
    replica.guard.on_usage(TenantId("tenant 0"), TokenCounts(1, 0, 1))
    assert replica.tokens("tenant 0") == (2, 0, 2)
    assert replica.tokens("tenant 199") == (1, 0, 1)
    assert replica.tokens("tenant 200") == (None, None, None)
    assert replica.tokens("other") == (3, 0, 3)


async def test_prompts_that_wait_are_shown(replica: Replica) -> None:
    replica.metrics.show_load(
        EngineLoad(running=1, waiting=1, kv_blocks_used=0, waiting_tokens=512)
    )
    assert replica.value("waiting_tokens") == 512


class Clock:
    """Stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now


def seconds(start: StartRecord, *, num_gpus: int) -> dict[str, float]:
    """What the collector shows, by name or phase."""
    registry = CollectorRegistry()
    registry.register(LifetimeCollector(start, model=MODEL, num_gpus=num_gpus))
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    assert all(sample.labels["model"] == MODEL for sample in samples)
    return {sample.labels.get("phase", sample.name): sample.value for sample in samples}


@pytest.mark.parametrize("num_gpus", [0, 4])
def test_a_replica_counts_its_seconds_from_its_order(num_gpus: int) -> None:
    clock = Clock()
    start = StartRecord(clock=clock, wall_clock=lambda: 1_000.0)
    with start.phase(StartPhase.WEIGHTS):
        clock.now += 2.0
    with start.phase(StartPhase.LOAD):
        clock.now += 30.0
    start.ordered(at=935.0)
    with start.phase(StartPhase.WARM_UP):
        clock.now += 0.5
    clock.now += 100.0
    assert seconds(start, num_gpus=num_gpus) == {
        "schedule": 65.0,
        "weights": 2.0,
        "load": 30.0,
        "warm_up": 0.5,
        "galerne_engine_replica_seconds_total": 197.5,
        "galerne_engine_gpu_seconds_total": 197.5 * num_gpus,
    }


def test_an_order_that_nobody_tells_of_is_left_out() -> None:
    clock = Clock()
    start = StartRecord(clock=clock, wall_clock=lambda: 1_000.0)
    clock.now += 3.0
    assert seconds(start, num_gpus=1) == {
        "galerne_engine_replica_seconds_total": 3.0,
        "galerne_engine_gpu_seconds_total": 3.0,
    }


def test_an_order_from_a_clock_ahead_of_ours_was_now() -> None:
    start = StartRecord(clock=Clock(), wall_clock=lambda: 1_000.0)
    start.ordered(at=1_030.0)
    assert seconds(start, num_gpus=1)["schedule"] == 0.0
    assert start.age_s() == 0.0


def test_a_phase_that_fails_is_none() -> None:
    start = StartRecord(clock=Clock(), wall_clock=float)
    with pytest.raises(OSError, match="disk"), start.phase(StartPhase.WEIGHTS):
        raise OSError("disk")
    assert start.seconds == {}
