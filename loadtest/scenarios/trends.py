"""Whether something that is measured over time keeps growing. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_HOUR_S = 3600.0
_Z_99 = 2.576
"""Quantile of the normal distribution for a two-sided confidence of 99 %."""
_FLATTENS_BELOW = 0.5
"""Where the second half grows by less than this share of the first, the growth comes to an end."""
_LEAST_SAMPLES = 8
"""In each half: with fewer, an interval of this confidence spans everything."""


class Slope(NamedTuple):
    """Growth per second: the estimate, and the lower end of its confidence interval."""

    per_s: float
    least_per_s: float


def theil_sen(at_s: Floats, values: Floats) -> Slope:
    """The median of the slopes between all pairs of samples, with a confidence of 99 %.

    Up to 29 % of the samples may be anything without moving it far, so a burst or a garbage
    collection is no trend. The interval takes samples for independent; memory is not, which makes
    it too narrow, so that it alone does not decide here (see `growth`).

    Args:
        at_s: [num_samples], at least 2, rising.
        values: [num_samples].

    Source: P. K. Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", 1968;
    variance with ties as in M. G. Kendall, "Rank Correlation Methods", 1975.

    >>> theil_sen(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 3.0, 5.0, 7.0])).per_s
    2.0
    """
    first, second = np.triu_indices(at_s.size, k=1)
    slopes = np.sort((values[second] - values[first]) / (at_s[second] - at_s[first]))
    spread = _Z_99 * np.sqrt(_variance(values))
    least = int(np.floor((slopes.size - spread) / 2))
    return Slope(float(np.median(slopes)), float(slopes[least]) if least >= 0 else -np.inf)


def _variance(values: Floats) -> float:
    """Of Kendall's S, where nothing changes but by chance."""
    ties = np.unique(values, return_counts=True)[1]
    counts = np.concatenate([[values.size], ties])
    terms = counts * (counts - 1.0) * (2.0 * counts + 5.0) / 18
    return float(terms[0] - terms[1:].sum())


@dataclass(frozen=True, slots=True)
class LeakLimits:
    """What growth is a leak: more than `per_hour` and more than `least_growth` in what was looked
    at, which is all but the first `warm_up_ratio`, when pools and caches fill."""

    per_hour: float
    least_growth: float
    warm_up_ratio: float = 1 / 3

    def detectable_per_hour(self, lasted_s: float) -> float:
        """The slowest leak that a run of this length can tell."""
        looked_at_s = lasted_s * (1 - self.warm_up_ratio)
        return max(self.per_hour, self.least_growth * _HOUR_S / looked_at_s)


@dataclass(frozen=True, slots=True)
class Growth:
    """How something grew per hour after its warm-up; `least_per_hour` is sure, by 99 %, in both
    halves of that time."""

    per_hour: float
    least_per_hour: float
    is_leak: bool


def growth(at_s: Floats, values: Floats, limits: LeakLimits) -> Growth | None:
    """How values grew, and whether that is a leak; `None` where there are too few to tell.

    A leak goes on: it has to be there in each half of the time after the warm-up, and in the second
    not much less than in the first. A pool that still fills flattens, a step is in one half only, a
    sawtooth in none. A small leak beside a pool that still fills takes a longer run to be told.

    Args:
        at_s: [num_samples], rising.
        values: [num_samples].

    >>> at_s = np.arange(0, 1800.0, 10)
    >>> growth(at_s, 500 + at_s / 60, LeakLimits(per_hour=16, least_growth=4)).is_leak
    True
    """
    begin_s = at_s[0] + limits.warm_up_ratio * (at_s[-1] - at_s[0]) if at_s.size else 0.0
    at_s, values = at_s[at_s >= begin_s], values[at_s >= begin_s]
    half = at_s.size // 2
    if half < _LEAST_SAMPLES:
        return None
    overall = theil_sen(at_s, values).per_s
    first, second = theil_sen(at_s[:half], values[:half]), theil_sen(at_s[half:], values[half:])
    least_per_hour = min(first.least_per_s, second.least_per_s) * _HOUR_S
    is_leak = (
        least_per_hour > limits.per_hour
        and overall * (at_s[-1] - at_s[0]) > limits.least_growth
        and second.per_s > _FLATTENS_BELOW * first.per_s
    )
    return Growth(overall * _HOUR_S, least_per_hour, bool(is_leak))
