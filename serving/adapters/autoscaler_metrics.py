"""What the autoscaler shows to Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.adapters.autoscaler import Report
from serving.scaling.guard import Trouble


class AutoscalerMetrics:
    """Metrics of all models' scaling, labelled by model.

    Args:
        registry: where they are shown.
        unix_time: the clock of Prometheus' `time()`, in seconds.
    """

    def __init__(
        self, registry: CollectorRegistry, *, unix_time: Callable[[], float] = time.time
    ) -> None:
        self._all: list[Gauge | Counter] = []

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            name = f"galerne_scaling_{name}"
            made = Gauge(name, documentation, ["model", *labels], registry=registry)
            self._all.append(made)
            return made

        def counter(name: str, documentation: str, label: str) -> Counter:
            name = f"galerne_scaling_{name}"
            made = Counter(name, documentation, ["model", label], registry=registry)
            self._all.append(made)
            return made

        self._unix_time = unix_time
        self._desired = gauge("desired_replicas", "Replicas that a model is to have.")
        self._ready = gauge("ready_replicas", "Replicas that run.")
        self._withheld = gauge(
            "withheld_replicas", "Replicas that are needed but beyond the GPU budget."
        )
        self._needed = gauge(
            "needed_replicas",
            "Replicas that each need calls for; the greatest counts, for as long as a cold start.",
            "need",
        )
        self._age = gauge(
            "signals_age_seconds", "Age of the figures of the latest decision; NaN without any."
        )
        self._cold_start = gauge(
            "cold_start_seconds", "From a replica's order until it is ready, as learned."
        )
        self._capacity = gauge(
            "capacity_ratio", "What a replica turns out to do, as a share of what was measured."
        )
        self._decided_at = gauge(
            "last_decision_timestamp_seconds", "When the latest decision was made, in Unix time."
        )
        self._troubles = counter(
            "troubles",
            "Decisions for which Prometheus' figures were not, or not fully, used: missing, stale, "
            "nonsense, partial (of some replicas only) or policy_failed.",
            "reason",
        )
        self._changes = counter("changes", "Changes of the desired replicas.", "direction")
        self._before: dict[str, int] = {}

    def decided(self, model: str, report: Report) -> None:
        """A decision was made."""
        if model not in self._before:
            self._show_zeros(model)
        age_s = report.signals_age_s
        self._desired.labels(model).set(report.granted)
        self._ready.labels(model).set(report.replicas.ready)
        self._withheld.labels(model).set(report.decision.desired - report.granted)
        self._age.labels(model).set(float("nan") if age_s is None else age_s)
        self._cold_start.labels(model).set(report.cold_start_s)
        self._capacity.labels(model).set(report.capacity_ratio)
        self._decided_at.labels(model).set(self._unix_time())
        for need in report.decision.needs:
            self._needed.labels(model, need.kind).set(need.replicas)
        change = report.granted - self._before.get(model, report.replicas.target)
        if change:
            self._changes.labels(model, "up" if change > 0 else "down").inc()
        self._before[model] = report.granted

    def troubled(self, model: str, trouble: Trouble, times: int) -> None:
        """Figures were not used."""
        self._troubles.labels(model, trouble).inc(times)

    def forgotten(self, model: str) -> None:
        """The model is not deployed any more: what was last said of it would stay for ever."""
        self._before.pop(model, None)
        for metric in self._all:
            metric.remove_by_labels({"model": model})

    def _show_zeros(self, model: str) -> None:
        """So that the first of each is seen to rise."""
        for trouble in Trouble:
            self._troubles.labels(model, trouble)
        for direction in ("up", "down"):
            self._changes.labels(model, direction)
