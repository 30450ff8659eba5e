"""Every metric that the platform shows, read off the objects that show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric

from serving.adapters.autoscaler import Report
from serving.adapters.autoscaler_metrics import AutoscalerMetrics
from serving.core.start_record import StartPhase, StartRecord
from serving.core.types import ModelId, TenantId
from serving.core.wire import Refusal
from serving.engine.guard import EngineGuard
from serving.engine.lifetime import LifetimeCollector
from serving.engine.metrics import EngineMetrics
from serving.gateway.load_metrics import LoadMetrics
from serving.gateway.metrics import GatewayMetrics, RequestOutcome
from serving.gateway.slo import SloMetrics
from serving.protocol.usage import TokenCounts
from serving.scaling.policy import Decision, Need, NeedKind
from serving.scaling.signals import Replicas
from serving.settings.model import ModelSettings
from serving.settings.scaling import SloSettings
from serving.settings.simulator import SimulatorSettings
from serving.simulator.launch import build_engine
from serving.tenancy.classes import TenantClasses
from serving.tenancy.shared_bytes import SharedBytes

_MODEL, _TENANT = ModelId("m"), TenantId("t")
_UNITS = {
    "seconds": "seconds", "bytes": "bytes", "tokens": "tokens", "ratio": "0 to 1",
    "perc": "0 to 1", "replicas": "replicas", "requests": "requests",
}  # fmt: skip
_OWN_LABELS = ("__name__", "le")


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """One metric: who shows it, its name as PromQL has it, and what it says."""

    component: str
    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    meaning: str


def catalog() -> list[MetricInfo]:
    """All metrics, by component."""
    return [
        *_read("gateway", _gateway()),
        *_read("engine", _engine()),
        *_read("engine, under vLLM's names", _vllm()),
        *_read("autoscaler", _autoscaler()),
    ]


def to_markdown(metrics: Sequence[MetricInfo]) -> str:
    """The page of docs."""
    lines = [
        "# Metrics",
        "Written by `galerne metrics list --markdown` from the code; a test compares it with what "
        "a running fleet shows. Units are in the names. Labels are bounded: models by the "
        "settings, tenants by 200 and `other`, the rest by the code. Prometheus adds `component`, "
        "`replica` and `deployed_model` to each.",
        "",
        "Real engines show more of vLLM's own metrics than the ones below, which the simulator "
        "has too: time to first token (TTFT), time between tokens (ITL) and per output token "
        "(TPOT), end to end, queue, preemptions, KV usage, tokens. Admission's refusals are "
        "`galerne_gateway_requests_total` with status 429 or 503, by code.",
    ]
    for component in dict.fromkeys(metric.component for metric in metrics):
        lines += [
            "",
            f"## {component[0].upper()}{component[1:]}",
            "| metric | type | unit | labels | meaning |",
        ]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| `{metric.name}` | {metric.kind} | {metric.unit} | "
            f"{', '.join(metric.labels)} | {metric.meaning.replace('|', '/')} |"
            for metric in metrics
            if metric.component == component
        ]
    return "\n".join(lines) + "\n"


def _read(component: str, registry: CollectorRegistry) -> Iterator[MetricInfo]:
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield MetricInfo(
            component,
            name,
            family.type,
            _unit(family.name),
            tuple(sorted(_labels(family))),
            family.documentation,
        )


def _labels(family: Metric) -> Iterable[str]:
    return {name for sample in family.samples for name in sample.labels} - {*_OWN_LABELS}


def _unit(name: str) -> str:
    """What a metric of this name counts.

    >>> _unit("galerne_gateway_queue_wait_seconds"), _unit("galerne_scaling_changes")
    ('seconds', 'number')
    """
    words = name.replace(":", "_").split("_")
    return next((_UNITS[word] for word in reversed(words) if word in _UNITS), "number")


def _gateway() -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry, [_MODEL], TenantClasses({}))
    metrics.arrived(_MODEL, _TENANT)
    metrics.prompt_unread(_MODEL)
    metrics.record(RequestOutcome(_MODEL, 200, None, 0.0, 0.0, 0.0, 0, 0, 0.0, 0.0, 0))
    registry.register(SloMetrics({_MODEL: SloSettings()}))
    registry.register(LoadMetrics([_MODEL], _NoLoad(), SharedBytes(0)))
    return registry


class _NoLoad:
    """A gateway at rest."""

    def num_in_flight(self, model: ModelId) -> int:
        del model
        return 0

    num_queued = queued_tokens = num_in_flight

    def num_replicas(self, model: ModelId) -> dict[str, int]:
        del model
        return {"heard": 0}


def _engine() -> CollectorRegistry:
    registry = CollectorRegistry()
    guard = EngineGuard(
        _nothing, token="", max_in_flight=1, version="", state=dict, stream=_nothing
    )
    EngineMetrics(registry, model=_MODEL, guard=guard)
    guard.on_refusal(Refusal.FULL)
    guard.on_usage(_TENANT, TokenCounts(output=1))
    start = StartRecord(clock=lambda: 0.0, wall_clock=lambda: 0.0)
    with start.phase(StartPhase.LOAD):
        pass
    registry.register(LifetimeCollector(start, model=_MODEL, num_gpus=1))
    return registry


async def _nothing(*_asgi: object) -> None:
    """An application that does not answer."""


def _vllm() -> CollectorRegistry:
    registry = CollectorRegistry()
    build_engine(
        _MODEL,
        ModelSettings(simulator=SimulatorSettings()),
        None,
        registry=registry,
        clock=lambda: 0.0,
    )
    return registry


def _autoscaler() -> CollectorRegistry:
    registry = CollectorRegistry()
    need = Need(NeedKind.DEMAND, 1.0, "")
    report = Report(Decision(1, "", (need,)), 1, Replicas(1, 1), 0.0, 0.0, 1.0)
    AutoscalerMetrics(registry, unix_time=lambda: 0.0).decided(_MODEL, report)
    return registry
