"""How fast an engine computes prompts, measured while it does."""

from __future__ import annotations

_MIN_TOKENS = 32
"""Steps that compute less are dominated by what every step costs."""
_KEPT = 0.98
"""Share that older steps keep with each new one: the last fifty count."""


class PrefillRate:
    """Prompt tokens per second over the latest steps that computed prompts.

    >>> rate = PrefillRate()
    >>> rate.per_second
    0.0
    >>> for _ in range(100):
    ...     rate.record(num_tokens=512, seconds=0.05)
    >>> round(rate.per_second)
    10240
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def record(self, *, num_tokens: int, seconds: float) -> None:
        """A step has computed `num_tokens` of prompts in `seconds`, decodes beside them too."""
        if num_tokens < _MIN_TOKENS or seconds <= 0:
            return
        self._tokens = _KEPT * self._tokens + num_tokens
        self._seconds = _KEPT * self._seconds + seconds

    @property
    def per_second(self) -> float:
        """The rate, 0 before the first such step."""
        return self._tokens / self._seconds if self._seconds else 0.0
