"""Arrival processes have the counts and gaps of their definition, and keep their draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.workload.arrivals import Floats, constant, gamma, poisson, ramp, step

Rng = np.random.Generator
DURATION_S = 1000.0
RATE = 20.0
PROCESSES: dict[str, Callable[[Rng, float], Floats]] = {
    "constant": lambda rng, scale: constant(rate=RATE * scale, duration_s=DURATION_S),
    "poisson": lambda rng, scale: poisson(rng, rate=RATE * scale, duration_s=DURATION_S),
    "gamma": lambda rng, scale: gamma(rng, rate=RATE * scale, cv=2.5, duration_s=DURATION_S),
    "ramp": lambda rng, scale: ramp(
        rng, start_rate=10 * scale, end_rate=30 * scale, duration_s=DURATION_S
    ),
    "step": lambda rng, scale: step(
        rng, [(5 * scale, 500.0), (65 * scale, 200.0), (0, 10.0), (15 * scale, 290.0)]
    ),
}
ALL = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
SEEDS = st.integers(0, 2**32)


@ALL
@settings(max_examples=25)
@given(seed=SEEDS, scale=st.floats(0.001, 3.0))
def test_times_are_sorted_and_within_the_duration(
    process: Callable[[Rng, float], Floats], seed: int, scale: float
) -> None:
    times_s = process(np.random.default_rng(seed), scale)
    assert (np.diff(times_s) >= 0).all()
    assert ((times_s >= 0) & (times_s < DURATION_S)).all()
    assert (process(np.random.default_rng(seed), scale) == times_s).all()


@ALL
def test_as_many_come_as_the_rate_says(process: Callable[[Rng, float], Floats]) -> None:
    """20,000 each, within five standard deviations of the noisiest, at a fixed seed."""
    num_arrivals = process(np.random.default_rng(1), 1.0).size
    assert num_arrivals == pytest.approx(RATE * DURATION_S, abs=5 * 2.5 * math.sqrt(20_000))


@pytest.mark.parametrize("name", ["constant", "poisson", "gamma"])
@settings(max_examples=25)
@given(seed=SEEDS, scale=st.floats(0.1, 10.0))
def test_another_rate_has_the_same_arrivals_sooner_or_later(
    name: str, seed: int, scale: float
) -> None:
    one, other = (PROCESSES[name](np.random.default_rng(seed), s) for s in (1.0, scale))
    num_both = min(one.size, other.size)
    np.testing.assert_allclose(other[:num_both] * scale, one[:num_both], rtol=1e-9)


@pytest.mark.parametrize("name", ["ramp", "step"])
def test_a_higher_rate_only_moves_arrivals_forward(name: str) -> None:
    one, double = (PROCESSES[name](np.random.default_rng(0), s) for s in (1.0, 2.0))
    assert (double[: one.size] <= one).all()
    assert double.size == pytest.approx(2 * one.size, rel=0.05)


@pytest.mark.parametrize("cv", [0.2, 1.0, 2.5])
def test_gaps_of_a_gamma_process_have_its_mean_and_burstiness(cv: float) -> None:
    gaps_s = np.diff(gamma(np.random.default_rng(5), rate=RATE, cv=cv, duration_s=5000.0))
    assert gaps_s.mean() == pytest.approx(1 / RATE, rel=0.03)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.03)


def test_gaps_of_a_poisson_process_are_exponential() -> None:
    """By the statistic of Kolmogorov and Smirnov; 1.63 / √n is its 1 % point."""
    gaps_s = np.sort(np.diff(poisson(np.random.default_rng(2), rate=RATE, duration_s=DURATION_S)))
    expected = 1 - np.exp(-gaps_s * RATE)
    distance = np.abs(expected - np.arange(1, gaps_s.size + 1) / gaps_s.size).max()
    assert distance < 1.63 / math.sqrt(gaps_s.size)


@pytest.mark.parametrize("cv", [0.3, 1.0, 3.0])
def test_bursts_do_not_change_how_many_are_expected_even_at_the_beginning(cv: float) -> None:
    """A process whose first gap were a whole one would have 4 too many, or too few, at cv = 3."""
    rng = np.random.default_rng(3)
    counts = [gamma(rng, rate=2.0, cv=cv, duration_s=5.0).size for _ in range(4000)]
    standard_error = np.std(counts) / math.sqrt(len(counts))
    assert np.mean(counts) == pytest.approx(10.0, abs=4 * standard_error)


def test_a_ramp_goes_up_on_a_straight_line() -> None:
    times_s = ramp(np.random.default_rng(4), start_rate=0.0, end_rate=40.0, duration_s=DURATION_S)
    per_quarter = np.histogram(times_s, bins=4, range=(0, DURATION_S))[0]
    expected = np.array([1, 3, 5, 7]) / 16 * 20_000
    assert (np.abs(per_quarter - expected) < 4 * np.sqrt(expected)).all()


def test_a_ramp_goes_down_like_up_and_a_level_one_is_poisson() -> None:
    down = ramp(np.random.default_rng(4), start_rate=40.0, end_rate=0.0, duration_s=DURATION_S)
    assert (down < DURATION_S / 2).mean() == pytest.approx(0.75, abs=0.02)
    level = ramp(np.random.default_rng(4), start_rate=RATE, end_rate=RATE, duration_s=DURATION_S)
    steady = poisson(np.random.default_rng(4), rate=RATE, duration_s=DURATION_S)
    np.testing.assert_allclose(level, steady, rtol=1e-9)


def test_each_step_has_its_rate() -> None:
    times_s = step(
        np.random.default_rng(6), [(5.0, 600.0), (0.0, 60.0), (50.0, 30.0), (5.0, 600.0)]
    )
    counts = np.histogram(times_s, bins=[0, 600, 660, 690, 1290])[0]
    expected = np.array([3000, 0, 1500, 3000])
    assert counts[1] == 0
    assert (np.abs(counts - expected) <= 4 * np.sqrt(expected)).all()


@pytest.mark.parametrize(
    "steps", [[(0.0, 5.0)], [(3.0, 1.0), (0.0, 5.0)], [(0.0, 5.0), (3.0, 9.0)]]
)
def test_nothing_comes_in_a_step_of_rate_0(steps: list[tuple[float, float]]) -> None:
    times_s = step(np.random.default_rng(0), steps)
    begin = 0.0
    for rate, seconds in steps:
        if rate == 0:
            assert not ((times_s >= begin) & (times_s < begin + seconds)).any()
        begin += seconds


@given(st.floats(0.01, 100.0), st.floats(0.01, 100.0))
def test_constant_arrivals_fill_the_duration(rate: float, duration_s: float) -> None:
    times_s = constant(rate=rate, duration_s=duration_s)
    assert times_s[0] == 0.0
    assert times_s[-1] < duration_s <= times_s[-1] + 1 / rate + 1e-9
