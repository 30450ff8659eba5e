"""Arrival processes: when requests come, as sorted times in seconds from the beginning.

Every process is a pure function of its random generator. It draws the same variates whatever its
rate, so that the i-th arrival of a run at another rate is the same draw, only sooner or later.

Poisson processes whose rate changes are those of rate 1 with their time stretched: an arrival comes
when the expected number of arrivals reaches the next of a unit process. That is exact.

Source: Lewis and Shedler, "Simulation of nonhomogeneous Poisson processes by thinning", Naval
Research Logistics 26, 1979, section 1 (inversion of the integrated rate); Cox, "Renewal Theory",
1962, chapter 5 (the first gap of a process in equilibrium).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

_SPARE = 4.0
"""Standard deviations of the number of arrivals that are drawn beyond the mean at once."""


def constant(*, rate: float, duration_s: float) -> Floats:
    """`rate` arrivals a second at equal distances, the first at 0.

    >>> constant(rate=2.0, duration_s=2.0).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    return _before(duration_s, np.arange(math.ceil(rate * duration_s) + 1) / rate)


def poisson(rng: np.random.Generator, *, rate: float, duration_s: float) -> Floats:
    """Independent arrivals, `rate` a second on average."""
    return _before(duration_s, _unit_poisson(rng, rate * duration_s) / rate)


def gamma(rng: np.random.Generator, *, rate: float, cv: float, duration_s: float) -> Floats:
    """Arrivals in bursts: the gaps are independent and gamma distributed.

    It begins in equilibrium, as if it had run for ever: the first gap is what is left of one, so
    that `rate * duration_s` arrivals are expected, whatever the burstiness.

    Args:
        rate: arrivals a second on average.
        cv: standard deviation of the gaps over their mean, above 0: near 0 they are regular, 1 is
            Poisson, above it bursts. A gamma distribution's shape is 1 / cv².
    """
    shape = cv**-2
    # A gap that a moment falls into is longer than others, by its own length: of shape + 1.
    first = rng.standard_gamma(shape + 1.0) * rng.random() / shape
    expected = rate * duration_s

    def gaps(num: int) -> Floats:
        return rng.standard_gamma(shape, num) / shape

    return _before(duration_s, _accumulated(gaps, expected, cv=cv, first=first) / rate)


def ramp(
    rng: np.random.Generator, *, start_rate: float, end_rate: float, duration_s: float
) -> Floats:
    """Poisson arrivals whose rate goes from one value to another on a straight line."""
    unit = _unit_poisson(rng, (start_rate + end_rate) / 2 * duration_s)
    slope = (end_rate - start_rate) / duration_s
    # The root of start·t + slope·t²/2 = unit, in the form that stands a slope of 0.
    inner = np.maximum(start_rate**2 + 2.0 * slope * unit, 0.0)
    return _before(duration_s, 2.0 * unit / (start_rate + np.sqrt(inner)))


def step(rng: np.random.Generator, steps: Sequence[tuple[float, float]]) -> Floats:
    """Poisson arrivals at one rate after another: a spike is a high step between two low ones.

    Args:
        steps: [(arrivals a second, seconds)].
    """
    rates, seconds = np.array(steps, dtype=np.float64).T
    ends_s = np.concatenate([[0.0], np.cumsum(seconds)])
    expected = np.concatenate([[0.0], np.cumsum(rates * seconds)])
    unit = _unit_poisson(rng, expected[-1])
    place = np.searchsorted(expected, unit, side="right") - 1
    times_s = ends_s[place] + (unit - expected[place]) / rates[place]
    return _before(float(ends_s[-1]), np.minimum(times_s, ends_s[place + 1]))


def _unit_poisson(rng: np.random.Generator, expected: float) -> Floats:
    """Arrivals of a Poisson process of rate 1 in the time before `expected`."""
    times = _accumulated(rng.standard_exponential, expected, cv=1.0)
    return times[times < expected]


def _accumulated(
    gaps: Callable[[int], Floats], until: float, *, cv: float, first: float | None = None
) -> Floats:
    """Sums of gaps of mean 1, beyond `until`. How many are drawn at a time changes nothing."""
    drawn = np.array([0.0 if first is None else first])
    while (missing := until - np.cumsum(drawn)[-1]) >= 0:
        num = math.ceil(missing + _SPARE * cv * math.sqrt(missing)) + 16
        drawn = np.concatenate([drawn, gaps(num)])
    return np.cumsum(drawn if first is not None else drawn[1:])


def _before(duration_s: float, times_s: Floats) -> Floats:
    return times_s[times_s < duration_s]
