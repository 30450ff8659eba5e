"""Made-up traces look like Mooncake's."""

from __future__ import annotations

import statistics
from random import Random

import pytest

from loadtest.figures import quantile
from loadtest.workload.conversations import generate
from loadtest.workload.oracle import oracle_hit_ratio
from serving.lab.traces import TraceRequest

NUM_REQUESTS = 3000
ENDLESS = 10**12
FLEET = 3_580_000


@pytest.fixture(scope="module")
def made_up() -> list[TraceRequest]:
    return generate(NUM_REQUESTS, Random(0))


def test_a_made_up_trace_has_mooncakes_statistics(made_up: list[TraceRequest]) -> None:
    """Those of the first 3,000 requests of its conversation trace: the oracle finds 32 and 16 %."""
    assert made_up[-1].at_s == pytest.approx(987, rel=0.15)
    prompts = [request.prompt_tokens for request in made_up]
    for share, expected in ((0.25, 2714), (0.5, 8001), (0.75, 17_071), (0.9, 29_381)):
        assert quantile(prompts, share) == pytest.approx(expected, rel=0.35)
    assert statistics.mean(prompts) == pytest.approx(13_517, rel=0.2)
    assert statistics.mean(r.output_tokens for r in made_up) == pytest.approx(350, rel=0.1)
    assert oracle_hit_ratio(made_up, capacity_tokens=ENDLESS) == pytest.approx(0.32, abs=0.05)
    assert oracle_hit_ratio(made_up, capacity_tokens=FLEET) == pytest.approx(0.16, abs=0.05)


def test_a_made_up_trace_is_the_same_each_time(made_up: list[TraceRequest]) -> None:
    assert generate(NUM_REQUESTS, Random(0)) == made_up
    assert [r.at_s for r in made_up] == sorted(r.at_s for r in made_up)


def test_requests_without_names_share_nothing() -> None:
    alike = [TraceRequest(0.0, 600, 1)] * 2
    assert oracle_hit_ratio(alike, capacity_tokens=ENDLESS) == 0.0
