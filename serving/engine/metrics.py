"""What an engine replica counts beside its engine's own metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.core.bounded_labels import MAX_TENANTS, BoundedLabels
from serving.core.types import EngineLoad, ModelId, TenantId
from serving.engine.guard import EngineGuard
from serving.protocol.usage import TokenCounts


class EngineMetrics:
    """Metrics of one replica's guard; vLLM's own keep their names beside them."""

    def __init__(self, registry: CollectorRegistry, *, model: ModelId, guard: EngineGuard) -> None:
        self._model = model
        self._tenants = BoundedLabels(MAX_TENANTS)
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
        waiting_tokens = Gauge(
            "galerne_engine_waiting_tokens",
            "Prompt tokens that no engine step has computed yet.",
            ["model"],
            registry=registry,
        )
        self._waiting_tokens = waiting_tokens.labels(model)
        self._tenant_tokens = Counter(
            "galerne_engine_tenant_tokens",
            "Tokens by tenant, counted when a request ends: of prompts, of those found in the "
            "prefix cache, and of answers.",
            ["model", "tenant", "kind"],
            registry=registry,
        )
        in_flight.labels(model).set_function(lambda: guard.in_flight)
        draining.labels(model).set_function(lambda: guard.is_draining)
        guard.on_refusal = lambda reason: refusals.labels(model, reason).inc()
        guard.on_usage = self._count_usage

    def show_load(self, load: EngineLoad) -> None:
        """The engine's load is this now. Told rather than asked for: pages are made in a thread,
        from which an engine cannot be asked."""
        self._waiting_tokens.set(load.waiting_tokens)

    def _count_usage(self, tenant: TenantId, counts: TokenCounts) -> None:
        if not any(counts):
            return
        label = self._tenants.of(tenant)
        for kind, num_tokens in counts._asdict().items():
            self._tenant_tokens.labels(self._model, label, kind).inc(num_tokens)
