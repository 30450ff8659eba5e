"""What the autoscaler shows of its decisions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from serving.adapters.autoscaler import Report
from serving.adapters.autoscaler_metrics import AutoscalerMetrics
from serving.scaling.guard import Trouble
from serving.scaling.policy import Decision, Need, NeedKind
from serving.scaling.signals import Replicas

NEEDS = (Need(NeedKind.DEMAND, 2.5, "busy"), Need(NeedKind.KV, 1.0, "KV"))
REPORT = Report(
    Decision(3, "busy", NEEDS),
    granted=2,
    replicas=Replicas(1, 1),
    signals_age_s=4.0,
    cold_start_s=70.0,
    capacity_ratio=0.9,
)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> AutoscalerMetrics:
    return AutoscalerMetrics(registry, unix_time=lambda: 1234.0)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"galerne_scaling_{name}", {"model": "m", **labels})


def test_a_decision_is_shown(registry: CollectorRegistry, metrics: AutoscalerMetrics) -> None:
    metrics.decided("m", REPORT)
    assert value(registry, "desired_replicas") == 2
    assert value(registry, "ready_replicas") == 1
    assert value(registry, "withheld_replicas") == 1
    assert value(registry, "needed_replicas", need="demand") == 2.5
    assert value(registry, "needed_replicas", need="kv") == 1.0
    assert value(registry, "signals_age_seconds") == 4.0
    assert value(registry, "cold_start_seconds") == 70.0
    assert value(registry, "capacity_ratio") == 0.9
    assert value(registry, "last_decision_timestamp_seconds") == 1234.0


def test_changes_are_counted_by_direction(
    registry: CollectorRegistry, metrics: AutoscalerMetrics
) -> None:
    for granted in (1, 1, 4, 4, 2, 3):
        metrics.decided("m", replace(REPORT, granted=granted))
    assert value(registry, "changes_total", direction="up") == 2
    assert value(registry, "changes_total", direction="down") == 1


def test_troubles_begin_at_zero(registry: CollectorRegistry, metrics: AutoscalerMetrics) -> None:
    metrics.decided("m", REPORT)
    assert value(registry, "troubles_total", reason="missing") == 0
    metrics.troubled("m", Trouble.MISSING, 3)
    assert value(registry, "troubles_total", reason="missing") == 3


def test_without_figures_there_is_no_age(
    registry: CollectorRegistry, metrics: AutoscalerMetrics
) -> None:
    metrics.decided("m", replace(REPORT, signals_age_s=None))
    assert math.isnan(value(registry, "signals_age_seconds") or 0.0)
