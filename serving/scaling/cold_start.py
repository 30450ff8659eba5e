"""How long a replica takes from its order until it is ready: learned from those that came."""

from __future__ import annotations

from collections import deque

import numpy as np

_REMEMBERED = 16
_QUANTILE = 0.8
"""One that waited an hour for a node does not make every other look slow."""
_ENOUGH, _DOUBT = 3, 4.0
"""Nor do the first of all: until so many have come, nothing beyond so many guesses is believed."""


class ColdStarts:
    """Follows orders and arrivals.

    Arrivals are matched with the oldest orders. A replica that is lost is ordered anew by Ray
    Serve, so its replacement counts too.

    Args:
        first_guess_s: until one has come.

    >>> starts = ColdStarts(first_guess_s=120.0)
    >>> for at_s, target, ready in ((0, 1, 1), (10, 3, 1), (70, 3, 2), (80, 3, 3)):
    ...     starts.observe(at_s, target=target, ready=ready)
    >>> starts.expected_s
    68.0
    """

    def __init__(self, *, first_guess_s: float) -> None:
        self._first_guess_s = first_guess_s
        self._ordered_at_s: deque[float] = deque()
        self._taken_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._ready: int | None = None

    def observe(self, at_s: float, *, target: int, ready: int) -> None:
        """So many are wanted and so many are ready at this moment; moments come in order."""
        orders = self._ordered_at_s
        for _ in range(ready - (ready if self._ready is None else self._ready)):
            if orders:
                self._taken_s.append(at_s - orders.popleft())
        self._ready = ready
        missing = max(target - ready, 0)
        while len(orders) < missing:
            orders.append(at_s)
        while len(orders) > missing:
            orders.pop()  # cancelled, latest first

    @property
    def expected_s(self) -> float:
        """What to reckon with, in seconds."""
        if not self._taken_s:
            return self._first_guess_s
        expected_s = float(np.quantile(self._taken_s, _QUANTILE))
        if len(self._taken_s) < _ENOUGH:
            return min(expected_s, _DOUBT * self._first_guess_s)
        return expected_s
