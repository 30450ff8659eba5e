"""How long a replica took to start and has been there, in seconds of its own and of its GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.core.start_record import StartRecord
from serving.core.types import ModelId


class LifetimeCollector(Collector):
    """One replica's seconds, told when someone asks.

    Args:
        start: of the replica.
        num_gpus: that are reserved for it.
    """

    def __init__(self, start: StartRecord, *, model: ModelId, num_gpus: int) -> None:
        self._start = start
        self._model = model
        self._num_gpus = num_gpus

    def collect(self) -> Iterator[Metric]:
        phases = GaugeMetricFamily(
            "galerne_engine_start_seconds",
            "What the replica's start was made of.",
            labels=["model", "phase"],
        )
        for phase, seconds in self._start.seconds.items():
            phases.add_metric([self._model, phase], seconds)
        yield phases
        age_s = self._start.age_s()
        yield self._counter(
            "galerne_engine_replica_seconds", "Seconds since the replica was ordered.", age_s
        )
        yield self._counter(
            "galerne_engine_gpu_seconds",
            "Seconds since the replica was ordered, times the GPUs reserved for it.",
            age_s * self._num_gpus,
        )

    def _counter(self, name: str, documentation: str, value: float) -> Metric:
        family = CounterMetricFamily(name, documentation, labels=["model"])
        family.add_metric([self._model], value)
        return family
