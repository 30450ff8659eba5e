"""When a new version breaks its SLO."""

from __future__ import annotations

import promql_parser
import pytest

from serving.metrics_catalog import catalog
from serving.operations.slo_watch import MIN_EVENTS, all_events, bad_events, broken_slo

TTFT, ITL = ("m", "ttft"), ("m", "itl")


@pytest.mark.parametrize("query", [bad_events(30), all_events(299.6)])
def test_queries_are_promql_over_a_metric_that_exists(query: str) -> None:
    promql_parser.parse(query)
    assert "galerne_gateway_slo_events_total" in query
    assert "galerne_gateway_slo_events_total" in {metric.name for metric in catalog()}


def test_one_slo_of_two_is_enough() -> None:
    every = {TTFT: 100.0, ITL: 10_000.0}
    assert broken_slo({}, every, {"m": 0.99}) is None
    told = broken_slo({ITL: 2000.0}, every, {"m": 0.99})
    assert told == "m: 20% of times between tokens are late, 20 times what its SLO allows"


def test_the_promise_decides_what_is_too_much() -> None:
    every, bad = {TTFT: 100.0}, {TTFT: 20.0}
    assert broken_slo(bad, every, {"m": 0.9}) is None
    assert broken_slo(bad, every, {"m": 0.99}) is not None


def test_few_events_and_other_models_say_nothing() -> None:
    few = MIN_EVENTS - 1.0
    assert broken_slo({TTFT: few}, {TTFT: few}, {"m": 0.99}) is None
    assert broken_slo({TTFT: 100.0}, {TTFT: 100.0}, {"other": 0.99}) is None
