"""What is a leak and what only looks like one, on made-up memory of half an hour."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.scenarios.trends import LeakLimits, growth, theil_sen

AT_S = np.arange(0.0, 1800.0, 6.0)
MIB = LeakLimits(per_hour=16.0, least_growth=4.0)


def _noise(mib: float) -> np.ndarray:
    return np.random.default_rng(7).normal(0.0, mib, AT_S.size)


def _leaks(values: np.ndarray) -> bool:
    found = growth(AT_S, values, MIB)
    assert found is not None
    return found.is_leak


def test_noise_is_no_leak() -> None:
    assert not _leaks(300 + _noise(5.0))


def test_a_warm_up_that_flattens_is_no_leak() -> None:
    assert not _leaks(300 + 200 * (1 - np.exp(-AT_S / 300)) + _noise(0.5))


def test_a_sawtooth_is_no_leak() -> None:
    assert not _leaks(300 + 40 * (AT_S % 180) / 180 + _noise(0.5))


def test_one_step_is_no_leak() -> None:
    assert not _leaks(300 + 80.0 * (AT_S > 1100) + _noise(0.5))


def test_a_constant_is_no_leak() -> None:
    assert not _leaks(np.full(AT_S.size, 300.0))


@pytest.mark.parametrize("mib_per_hour", [30.0, 60.0, 500.0])
def test_a_slow_leak_is_one(mib_per_hour: float) -> None:
    found = growth(AT_S, 300 + mib_per_hour * AT_S / 3600 + _noise(0.5), MIB)

    assert found is not None
    assert found.is_leak
    assert found.per_hour == pytest.approx(mib_per_hour, rel=0.1)


def test_a_leak_under_a_warm_up_and_bursts_is_one() -> None:
    bursts = 100.0 * (np.random.default_rng(3).random(AT_S.size) < 0.1)

    assert _leaks(300 + 100 * (1 - np.exp(-AT_S / 200)) + AT_S / 60 + bursts + _noise(0.3))


def test_a_leak_in_whole_steps_of_an_allocator_is_one() -> None:
    assert _leaks(300 + np.floor(AT_S / 60))


def test_growth_below_the_limit_is_no_leak() -> None:
    assert not _leaks(300 + 10 * AT_S / 3600)


def test_growth_too_small_to_be_told_is_no_leak_however_steep() -> None:
    at_s = np.arange(0.0, 30.0, 0.5)

    found = growth(at_s, 300 + 0.1 * at_s, MIB)  # 360 MiB an hour, 2 MiB in all

    assert found is not None
    assert not found.is_leak


def test_too_few_samples_say_nothing() -> None:
    assert growth(AT_S[:20], AT_S[:20], MIB) is None
    assert growth(AT_S[:0], AT_S[:0], MIB) is None


def test_a_short_run_tells_only_what_is_more_than_noise() -> None:
    assert MIB.detectable_per_hour(1800) == 16.0
    assert MIB.detectable_per_hour(60) == pytest.approx(360.0)


@given(
    slope=st.floats(-100, 100),
    start=st.floats(-1e3, 1e3),
    steps=st.lists(st.floats(0.1, 10), min_size=10, max_size=60),
)
def test_a_line_has_its_own_slope(slope: float, start: float, steps: list[float]) -> None:
    at_s = np.cumsum(steps)

    found = theil_sen(at_s, start + slope * at_s)

    assert found.per_s == pytest.approx(slope, abs=1e-6)
    assert found.least_per_s <= found.per_s


@given(st.integers(0, 2**32 - 1))
def test_a_quarter_of_wild_samples_does_not_move_it_far(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at_s = np.arange(100.0)
    wild = rng.permutation(100) < 25
    values = np.where(wild, rng.uniform(-1000, 1000, 100), at_s)

    assert theil_sen(at_s, values).per_s == pytest.approx(1.0, abs=3.0)
