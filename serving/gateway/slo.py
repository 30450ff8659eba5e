"""Good and bad events of a model's SLO, as clients see them.

Every part of every stream passes here, so these are plain numbers, read when someone asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.core.types import ModelId
from serving.settings.scaling import SloSettings


@dataclass(slots=True)
class SloCounts:
    """Events of one model's streams.

    `ttft_s` and `itl_s` are the longest good times. A gap is the time between two parts of a stream
    that the client could have taken earlier; a part is a token, or several that came at once.
    """

    ttft_s: float
    itl_s: float
    num_good_firsts: int = 0
    num_late_firsts: int = 0
    num_good_gaps: int = 0
    num_long_gaps: int = 0

    def first(self, seconds: float) -> None:
        """A stream's first part came after so long; never, if infinite."""
        if seconds > self.ttft_s:
            self.num_late_firsts += 1
        else:
            self.num_good_firsts += 1

    def gap(self, seconds: float) -> None:
        """The next part came so long after the one before."""
        if seconds > self.itl_s:
            self.num_long_gaps += 1
        else:
            self.num_good_gaps += 1


class SloMetrics(Collector):
    """Shows the counts to Prometheus.

    Args:
        slos: of each model.
    """

    def __init__(self, slos: Mapping[ModelId, SloSettings]) -> None:
        self._slos = slos
        self.counts = {model: SloCounts(slo.ttft_s, slo.itl_s) for model, slo in slos.items()}

    def collect(self) -> Iterator[Metric]:
        events = CounterMetricFamily(
            "galerne_gateway_slo_events",
            "First tokens of streams (slo ttft) and times between their parts (slo itl), good or "
            "bad by the model's SLO.",
            labels=["model", "slo", "result"],
        )
        objective = GaugeMetricFamily(
            "galerne_gateway_slo_objective_ratio",
            "Share of these events that is promised to be good.",
            labels=["model"],
        )
        for model, counts in self.counts.items():
            events.add_metric([model, "ttft", "good"], counts.num_good_firsts)
            events.add_metric([model, "ttft", "bad"], counts.num_late_firsts)
            events.add_metric([model, "itl", "good"], counts.num_good_gaps)
            events.add_metric([model, "itl", "bad"], counts.num_long_gaps)
            objective.add_metric([model], self._slos[model].objective_ratio)
        yield events
        yield objective
