"""What a gateway holds and hears now, asked when Prometheus asks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.core.types import ModelId
from serving.tenancy.shared_bytes import SharedBytes


class LoadView(Protocol):
    """A gateway's view of its fleet."""

    def num_in_flight(self, model: ModelId) -> int:
        """Requests this gateway holds on the model's replicas."""

    def num_queued(self, model: ModelId) -> int:
        """Requests that wait for room on a replica."""

    def queued_tokens(self, model: ModelId) -> int:
        """Prompt tokens of those."""

    def num_replicas(self, model: ModelId) -> Mapping[str, int]:
        """The model's replicas by how they are heard."""


class LoadMetrics(Collector):
    """Shows the load of some models, and the memory that all requests take."""

    def __init__(self, models: Collection[ModelId], fleet: LoadView, bodies: SharedBytes) -> None:
        self._models = models
        self._fleet = fleet
        self._bodies = bodies

    def collect(self) -> Iterator[Metric]:
        fleet = self._fleet
        in_flight = _gauge("in_flight_requests", "Requests this gateway holds on replicas.")
        queued = _gauge("queued_requests", "Requests waiting for room on a replica.")
        tokens = _gauge("queued_tokens", "Prompt tokens of the requests waiting for room.")
        replicas = _gauge(
            "replicas",
            "Engine replicas as this gateway hears them: silent says nothing for 3 s, lost has "
            "answered nothing for 15 s.",
            "state",
        )
        for model in self._models:
            in_flight.add_metric([model], fleet.num_in_flight(model))
            queued.add_metric([model], fleet.num_queued(model))
            tokens.add_metric([model], fleet.queued_tokens(model))
            for state, number in fleet.num_replicas(model).items():
                replicas.add_metric([model, state], number)
        yield from (in_flight, queued, tokens, replicas)
        yield GaugeMetricFamily(
            "galerne_gateway_held_body_bytes",
            "Bytes of request bodies this gateway holds, for requests that wait and that run.",
            value=self._bodies.held,
        )


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"galerne_gateway_{name}", documentation, labels=["model", *labels])
