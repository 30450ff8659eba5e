"""Scaling signals of all models from Prometheus, in one query."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ray.serve.autoscaling_policy import (
    PrometheusQueryMixin,
    PrometheusSample,
    PrometheusVector,
)

from serving.scaling.signals import Signals

_WINDOW = "40s"
"""Holds two scrapes of 15 s at the least, so that there is always a rate."""
_ACTIVE = "15m"
"""A class of tenants counts as active for so long after its last request."""
_CACHE_TTL_S = 120.0
"""How long the last answer counts if the next does not come. One that fails empties the cache at
once, and the guard holds."""


def _gateways(metric: str, *, over: str = "sum") -> str:
    """Summed over gateways; a target that two jobs scrape counts once."""
    return f"{over} by (model) (max by (model, instance) ({metric}))"


def _engines(metric: str, *, over: str = "sum") -> str:
    """The same over engines, whose own metrics call the model `model_name`."""
    by_instance = f"max by (model_name, instance) ({metric})"
    return f'{over} by (model) (label_replace({by_instance}, "model", "$1", "model_name", "(.+)"))'


def _rate(metric: str) -> str:
    return f"rate({metric}[{_WINDOW}])"


def _bad_ratio(slo: str) -> str:
    events = f'galerne_gateway_slo_events_total{{slo="{slo}"'
    bad = _gateways(_rate(f'{events},result="bad"}}'))
    # Summed over good and bad before targets are, else one of them would be left out.
    every = f"sum by (model, instance, job) ({_rate(events + '}')})"
    return f"{bad} / ({_gateways(every)} > 0)"


_EXPRESSIONS: Mapping[str, str] = {
    "requests_per_s": _gateways(_rate("galerne_gateway_arrived_requests_total")),
    "sent_per_s": _gateways(_rate("galerne_gateway_sent_requests_total")),
    "wanted_per_s": _gateways(_rate("galerne_gateway_wanted_requests_total")),
    "prompt_tokens_per_s": _gateways(_rate("galerne_gateway_prompt_tokens_total")),
    "hit_tokens_per_s": _gateways(_rate("galerne_gateway_predicted_hit_tokens_total")),
    "queued": _gateways("galerne_gateway_queued_requests"),
    "queued_tokens": _gateways("galerne_gateway_queued_tokens"),
    "late_ttft_ratio": _bad_ratio("ttft"),
    "long_itl_ratio": _bad_ratio("itl"),
    "age_s": "time() - max by (model) (timestamp(galerne_gateway_queued_requests))",
    "active_class": (
        "max by (model, tenant_class) (increase("
        f'galerne_gateway_tenant_requests_total{{tenant_class!=""}}[{_ACTIVE}])) > 0'
    ),
    "waiting_tokens": _gateways("galerne_engine_waiting_tokens"),
    "running": _gateways("galerne_engine_in_flight_requests"),
    "waiting": _engines("vllm:num_requests_waiting"),
    "output_tokens_per_s": _engines(_rate("vllm:generation_tokens_total")),
    "preemptions_per_s": _engines(_rate("vllm:num_preemptions_total")),
    "kv_used_ratio": _engines("vllm:kv_cache_usage_perc", over="avg"),
    "gateways_seen": _gateways("galerne_gateway_queued_requests", over="count"),
    "replicas_seen": _engines("vllm:kv_cache_usage_perc", over="count"),
}
_ALWAYS_THERE = ("requests_per_s", "prompt_tokens_per_s", "queued", "queued_tokens", "age_s")
"""Gateways show these from their start; without one of them there is nothing to decide by."""

QUERY = " or ".join(
    f'label_replace({expression}, "signal", "{name}", "", "")'
    for name, expression in _EXPRESSIONS.items()
)
"""A vector with one sample per model and signal."""


class _Brief(logging.Filter):
    """Lets a failed query be told once a minute, without its text of 4 kB."""

    _PERIOD_S = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._told_at_s = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith("Failed to evaluate Prometheus query"):
            return True
        if record.created - self._told_at_s < self._PERIOD_S:
            return False
        self._told_at_s = record.created
        cause = record.args[-1] if isinstance(record.args, tuple) and record.args else ""
        record.msg, record.args = "no scaling signals from Prometheus: %s", (cause,)
        return True


_brief = _Brief()


class PrometheusSignals(PrometheusQueryMixin):  # type: ignore[misc]  # ray ships no types
    """The latest signals, fetched by a thread of its own.

    Args:
        url: of Prometheus; `None` takes the environment's `RAY_PROMETHEUS_HOST`, if there is one.
        num_gateways: that there are.
    """

    def __init__(self, url: str | None, num_gateways: int) -> None:
        logging.getLogger("ray.serve").addFilter(_brief)
        super().__init__(
            prometheus_address=url, prometheus_queries=[QUERY], cache_ttl_s=_CACHE_TTL_S
        )
        self.source = (url, num_gateways)
        self._evaluated_at = 0.0
        self._new_at_s = 0.0

    def latest(self, *, now_s: float) -> dict[str, Signals]:
        """By model; models without figures are left out. Returns at once.

        Args:
            now_s: seconds of a monotonic clock.
        """
        vector = (self.prometheus_results or {}).get(QUERY)
        if not isinstance(vector, PrometheusVector) or not vector.samples:
            return {}
        if (evaluated_at := vector.samples[0].timestamp) != self._evaluated_at:
            self._evaluated_at, self._new_at_s = evaluated_at, now_s
        found = read_signals(vector.samples, at_s=now_s, fetched_s=now_s - self._new_at_s)
        return {
            model: replace(signals, gateways_missing=max(self.source[1] - num_seen, 0))
            for model, (signals, num_seen) in found.items()
        }


def read_signals(
    samples: Iterable[PrometheusSample], *, at_s: float, fetched_s: float
) -> dict[str, tuple[Signals, int]]:
    """Signals by model, of those models that have all that gateways tell, and of how many gateways.

    Args:
        at_s: what the signals say of their time.
        fetched_s: how long ago they were fetched.
    """
    values: defaultdict[str, dict[str, float]] = defaultdict(dict)
    classes: defaultdict[str, set[str]] = defaultdict(set)
    for sample in samples:
        model, signal = sample.labels.get("model", ""), sample.labels.get("signal", "")
        if signal == "active_class":
            classes[model].add(sample.labels.get("tenant_class", ""))
        else:
            values[model][signal] = sample.value
    return {
        model: (
            _to_signals(found, frozenset(classes[model]), at_s=at_s, fetched_s=fetched_s),
            num_seen,
        )
        for model, found in values.items()
        if (num_seen := int(found.pop("gateways_seen", 0.0)))
        and all(name in found for name in _ALWAYS_THERE)
    }


def _to_signals(
    found: dict[str, float], classes: frozenset[str], *, at_s: float, fetched_s: float
) -> Signals:
    cached = found.pop("hit_tokens_per_s", 0.0)
    waiting = found.pop("waiting_tokens", 0.0) + found.pop("queued_tokens")
    prompt = max(found.pop("prompt_tokens_per_s") - cached, 0.0)
    # Before a replica is seen there is none; one that is not seen is missed by the guard.
    seen = int(found.pop("replicas_seen", 0.0))
    age_s = found.pop("age_s") + fetched_s
    rest: dict[str, Any] = {"output_tokens_per_s": 0.0, **found}
    return Signals(
        at_s,
        prompt_tokens_per_s=prompt,
        waiting_tokens=waiting,
        replicas_seen=seen,
        active_classes=classes,
        age_s=max(age_s, 0.0),
        **rest,
    )
