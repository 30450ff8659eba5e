"""Signals of models from the samples that Prometheus answers."""

from __future__ import annotations

import logging

import pytest
from ray.serve.autoscaling_policy import PrometheusSample

from serving.adapters.prometheus_signals import PrometheusSignals, read_signals

GATEWAYS = {
    "requests_per_s": 2.0,
    "prompt_tokens_per_s": 1000.0,
    "hit_tokens_per_s": 400.0,
    "queued": 1.0,
    "queued_tokens": 50.0,
    "age_s": 3.0,
    "gateways_seen": 2.0,
}
ENGINES = {"waiting_tokens": 70.0, "running": 9.0, "kv_used_ratio": 0.5, "replicas_seen": 2.0}


def samples(values: dict[str, float], model: str = "m") -> list[PrometheusSample]:
    return [
        PrometheusSample({"model": model, "signal": name}, value, timestamp=1e9)
        for name, value in values.items()
    ]


def test_what_gateways_and_engines_tell_is_put_together() -> None:
    found = read_signals(samples({**GATEWAYS, **ENGINES}), at_s=7.0, fetched_s=4.0)["m"][0]
    assert found.at_s == 7.0
    assert found.prompt_tokens_per_s == 600.0  # cached ones are no work
    assert found.waiting_tokens == 120.0
    assert found.age_s == 7.0
    assert found.replicas_seen == 2
    assert found.output_tokens_per_s == 0.0
    assert found.problem() is None


def test_a_model_without_replicas_is_known_by_its_gateways() -> None:
    found = read_signals(samples(GATEWAYS), at_s=0.0, fetched_s=0.0)["m"][0]
    assert found.queued == 1.0
    assert found.replicas_seen == 0


@pytest.mark.parametrize("missing", sorted(GATEWAYS.keys() - {"hit_tokens_per_s"}))
def test_without_what_gateways_always_tell_there_are_no_signals(missing: str) -> None:
    rest = {name: value for name, value in GATEWAYS.items() if name != missing}
    found = read_signals([*samples(rest), *samples(GATEWAYS, "n")], at_s=0.0, fetched_s=0.0)
    assert found.keys() == {"n"}


def test_more_hits_than_prompts_are_no_negative_work() -> None:
    """Two counters are never scraped at the same instant of one request."""
    odd = {**GATEWAYS, "hit_tokens_per_s": 1001.0}
    assert read_signals(samples(odd), at_s=0.0, fetched_s=0.0)["m"][0].prompt_tokens_per_s == 0.0


def test_it_is_known_how_many_gateways_tell() -> None:
    assert read_signals(samples(GATEWAYS), at_s=0.0, fetched_s=0.0)["m"][1] == 2


def test_active_classes_are_named() -> None:
    active = PrometheusSample(
        {"model": "m", "signal": "active_class", "tenant_class": "gold"}, 3.0, timestamp=1e9
    )
    found = read_signals([*samples(GATEWAYS), active], at_s=0.0, fetched_s=0.0)["m"][0]
    assert found.active_classes == {"gold"}


def test_without_an_address_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_PROMETHEUS_HOST", raising=False)
    assert PrometheusSignals(None, 1).latest(now_s=0.0) == {}


def test_a_failed_query_is_told_briefly_and_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    PrometheusSignals(None, 1)
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    try:
        for _ in range(3):
            logger.warning("Failed to evaluate Prometheus query %r: %s", "x" * 4000, "refused")
    finally:
        logger.removeHandler(caplog.handler)
    assert len(caplog.messages) <= 1  # another test may have told it within the minute
    assert all(m == "no scaling signals from Prometheus: refused" for m in caplog.messages)
