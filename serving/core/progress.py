"""Telling an engine that hangs from one that is merely busy or idle. Pure; time is passed in."""

from __future__ import annotations


class ProgressWatch:
    """Whether an engine with work to do still makes steps.

    Args:
        hang_timeout_s: the longest a single step may take.

    >>> watch = ProgressWatch(hang_timeout_s=10.0)
    >>> watch.is_hung(now=100.0, busy=False)
    False
    >>> watch.is_hung(now=200.0, busy=True)  # first seen busy: the idle time before does not count
    False
    >>> watch.step(now=209.0)
    >>> watch.is_hung(now=218.0, busy=True), watch.is_hung(now=220.0, busy=True)
    (False, True)
    """

    def __init__(self, hang_timeout_s: float) -> None:
        self._hang_timeout_s = hang_timeout_s
        self._waiting_since: float | None = None

    def step(self, now: float) -> None:
        """The engine has finished a step."""
        if self._waiting_since is not None:
            self._waiting_since = now

    def is_hung(self, *, now: float, busy: bool) -> bool:
        """Whether the engine has had work and made no step for too long.

        Args:
            now: monotonic seconds.
            busy: whether it holds unfinished requests.
        """
        if not busy:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        return self._waiting_since is not None and now - self._waiting_since > self._hang_timeout_s
