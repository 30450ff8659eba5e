"""The demand after a cold start, learned from how demand went on before."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.scaling.forecast import DemandForecast

TICK_S = 5.0
HORIZON_S = 120.0
BURST_TICKS = 12
PERIOD_TICKS = 120


def forecast(*, quantile: float = 0.8) -> DemandForecast:
    return DemandForecast(
        horizon_s=HORIZON_S, quantile=quantile, level_s=30.0, memory_s=3600.0, first_guess=1.3
    )


def after(one: DemandForecast, demands: list[float], *, first: int = 0) -> float:
    """What it expects when it has seen these."""
    for tick, demand in enumerate(demands, first):
        one.observe(tick * TICK_S, demand)
    return one.expected


def test_nothing_seen() -> None:
    assert forecast().expected == 0.0


def test_the_first_guess_counts_until_there_is_experience() -> None:
    assert after(forecast(), [2.0] * 30) == pytest.approx(2.6)


def test_a_steady_service_needs_no_more_than_it_has() -> None:
    assert after(forecast(), [2.0] * 200) == pytest.approx(2.0)


def test_steady_growth_is_foreseen() -> None:
    demands = [1.01**tick for tick in range(400)]
    assert after(forecast(), demands) == pytest.approx(1.01 ** (399 + 24), rel=0.08)


def test_a_burst_that_usually_ends_is_not_taken_for_growth() -> None:
    demands = [8.0 if tick % PERIOD_TICKS < BURST_TICKS else 4.0 for tick in range(720)]
    one = forecast()
    after(one, demands)
    in_burst = after(one, [8.0] * 6, first=720)
    assert in_burst < 8.0


def test_a_higher_quantile_is_more_careful() -> None:
    demands = [8.0 if tick % PERIOD_TICKS < BURST_TICKS else 4.0 for tick in range(720)]
    assert after(forecast(quantile=0.95), demands) > 1.5 * after(forecast(quantile=0.5), demands)


def test_what_is_long_ago_is_forgotten() -> None:
    one = forecast()
    after(one, [1.02**tick for tick in range(200)])
    assert after(one, [50.0] * 1000, first=200) == pytest.approx(50.0)


@given(st.lists(st.floats(0, 1e6), max_size=200))
def test_whatever_it_sees_it_expects_something_possible(demands: list[float]) -> None:
    expected = after(forecast(), demands)
    assert math.isfinite(expected)
    assert expected >= 0.0


@pytest.mark.parametrize("gap_s", [1000.0, 1e6])
def test_it_goes_on_after_a_gap(gap_s: float) -> None:
    """A Prometheus that was away, or a clock that jumped."""
    one = forecast()
    after(one, [2.0] * 200)
    one.observe(200 * TICK_S + gap_s, 7.0)
    assert one.level == 7.0
    assert math.isfinite(one.expected)
