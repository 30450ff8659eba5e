"""When a refused request has a chance: how fast the requests ahead of it are being finished."""

from __future__ import annotations

import math

_HORIZON_S = 30.0
MAX_RETRY_AFTER_S = 60.0


class CompletionRate:
    """Finished requests per second, weighted towards the last half minute.

    Each completion counts for `exp(-age / 30 s)`, so the state is one number and a time.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._at = 0.0

    def record(self, now: float) -> None:
        """One request has finished at `now`, in seconds of a monotonic clock."""
        self._weight = self._decayed(now) + 1.0
        self._at = now

    def per_second(self, now: float) -> float:
        """The rate at `now`.

        >>> rate = CompletionRate()
        >>> for second in range(200):
        ...     rate.record(float(second))
        >>> round(rate.per_second(200.0), 2)
        0.98
        """
        return self._decayed(now) / _HORIZON_S

    def _decayed(self, now: float) -> float:
        return self._weight * math.exp(-max(now - self._at, 0.0) / _HORIZON_S)


def retry_after_s(num_ahead: int, completions_per_s: float) -> float:
    """Seconds until `num_ahead` requests and one more are finished, from 1 to 60.

    A platform that finishes nothing gives no estimate: the longest wait is the honest one.

    >>> retry_after_s(9, 2.0)
    5.0
    >>> retry_after_s(0, 0.0)
    60.0
    """
    if completions_per_s * MAX_RETRY_AFTER_S <= num_ahead + 1:
        return MAX_RETRY_AFTER_S
    return max((num_ahead + 1) / completions_per_s, 1.0)
