"""What an engine replica counts beside its engine's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.core.types import ModelId
from serving.engine.guard import EngineGuard


class EngineMetrics:
    """Metrics of one replica's guard; vLLM's own keep their names beside them."""

    def __init__(self, registry: CollectorRegistry, *, model: ModelId, guard: EngineGuard) -> None:
        in_flight = Gauge(
            "galerne_engine_in_flight_requests",
            "Requests the replica holds, from the first byte in to the last byte out.",
            ["model"],
            registry=registry,
        )
        draining = Gauge(
            "galerne_engine_draining",
            "1 while the replica finishes its last requests, else 0.",
            ["model"],
            registry=registry,
        )
        refusals = Counter(
            "galerne_engine_refusals",
            "Requests declined before the engine saw them.",
            ["model", "reason"],
            registry=registry,
        )
        in_flight.labels(model).set_function(lambda: guard.in_flight)
        draining.labels(model).set_function(lambda: guard.is_draining)
        guard.on_refusal = lambda reason: refusals.labels(model, reason).inc()
