"""The demand that a replica ordered now will meet: learned from how demand went on before."""

from __future__ import annotations

from collections import deque

import numpy as np

_MIN_PAIRS = 60
_REFIT_S = 30.0


class DemandForecast:
    """The demand after a cold start, high enough in most cases.

    Pairs of the demand at one moment and `horizon_s` later are kept for `memory_s`. A line through
    them tells what usually follows: a burst that usually ends, the rise of a morning that usually
    goes on. How far what followed was from that line, as a ratio, is the uncertainty; its
    `quantile` is prepared for. So a steady service gets little more than it has, and one with
    bursts as much as its bursts call for.

    Args:
        horizon_s: how far ahead, in seconds.
        quantile: how often the forecast shall be enough, 0 to 1.
        level_s: demand is averaged over so long.
        memory_s: how long a pair counts.
        first_guess: ratio of later to present demand, until enough has been seen.
    """

    def __init__(
        self,
        *,
        horizon_s: float,
        quantile: float,
        level_s: float,
        memory_s: float,
        first_guess: float,
    ) -> None:
        self.horizon_s = horizon_s
        """How far ahead, in seconds; may change."""
        self._quantile = quantile
        self._level_s = level_s
        self._memory_s = memory_s
        self._first_guess = first_guess
        self._recent: deque[tuple[float, float]] = deque()
        self._levels: deque[tuple[float, float]] = deque()
        self._pairs: deque[tuple[float, float, float]] = deque()
        self._fitted_at_s = -_REFIT_S
        self._offset, self._slope = 0.0, first_guess
        self.level = 0.0
        """The demand now."""

    def observe(self, at_s: float, demand: float) -> None:
        """Take a measurement, 0 or more; they come in order of time."""
        self._recent.append((at_s, demand))
        while self._recent[0][0] <= at_s - self._level_s:
            self._recent.popleft()
        self.level = sum(demand for _, demand in self._recent) / len(self._recent)
        self._levels.append((at_s, self.level))
        while self._levels[0][0] <= at_s - self.horizon_s:
            begun_s, before = self._levels.popleft()
            if at_s - begun_s < self.horizon_s + self._level_s:  # else there was a gap
                self._pairs.append((at_s, before, self.level))
        while self._pairs and self._pairs[0][0] <= at_s - self._memory_s:
            self._pairs.popleft()
        if at_s - self._fitted_at_s >= _REFIT_S and len(self._pairs) >= _MIN_PAIRS:
            self._fit()
            self._fitted_at_s = at_s

    @property
    def expected(self) -> float:
        """The demand to prepare for."""
        return max(self._offset + self._slope * self.level, 0.0)

    def _fit(self) -> None:
        _, before, after = np.array(self._pairs).T
        deviation = before - before.mean()
        spread = float(deviation @ deviation)
        slope = float(deviation @ after) / spread if spread > 0 else 0.0
        slope = max(slope, 0.0)
        offset = float(after.mean() - slope * before.mean())
        usual = offset + slope * before
        ratios = after[usual > 0] / usual[usual > 0]
        margin = float(np.quantile(ratios, self._quantile)) if ratios.size else 1.0
        self._offset, self._slope = margin * offset, margin * slope
