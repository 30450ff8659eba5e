"""File descriptors of this process: a gateway that runs out of them could not even refuse."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Callable

PER_REQUEST = 2
"""Descriptors that a request holds in a gateway: the client's connection and the engine's."""
_RESERVE_RATIO = 0.25
_MIN_RESERVE = 64
"""Kept free for accepting and refusing connections, and for everything that is not a request."""
_EPISODE_S = 30.0
"""A shortage is over when it has not been seen for this long."""
_WATCH_PERIOD_S = 1.0

logger = logging.getLogger("ray.serve")


class DescriptorGuard:
    """Says whether there are descriptors for another request, and tells of a shortage.

    Args:
        now: monotonic clock, in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._short_at: float | None = None  # when a shortage was last seen; `None`: it is over
        self._num_refused = 0

    def has_room(self) -> bool:
        """Whether another request may be taken in; one that may not counts as refused."""
        if not self._is_short():
            return True
        self._num_refused += 1
        return False

    def problems(self) -> list[str]:
        """What an operator must know, as long as it lasts."""
        self._is_short()
        if self._short_at is None:
            return []
        refused = f"{self._num_refused} requests refused"
        return [f"file descriptors: the limit of {_limit()} is near, {refused}"]

    async def watch(self) -> None:
        """Notice a shortage in which not even a request comes in. Runs until cancelled."""
        while True:
            self._is_short()
            await asyncio.sleep(_WATCH_PERIOD_S)

    def _is_short(self) -> bool:
        limit = _limit()
        is_short = _lowest_free(limit) >= limit - reserve(limit)
        if is_short and self._short_at is None:
            logger.error("file descriptors are short (limit %d): requests get 503", limit)
        if is_short:
            self._short_at = self._now()
        elif self._short_at is not None and self._now() - self._short_at > _EPISODE_S:
            logger.warning("file descriptors suffice; %d requests were refused", self._num_refused)
            self._short_at = None
            self._num_refused = 0
        return is_short


def reserve(limit: int) -> int:
    """Descriptors kept free under a limit.

    >>> reserve(1024), reserve(20_000)
    (256, 5000)
    """
    return max(_MIN_RESERVE, int(limit * _RESERVE_RATIO))


def num_requests(limit: int) -> int:
    """Requests that a gateway can hold at once under a limit, its own descriptors aside.

    >>> num_requests(1024)
    384
    """
    return (limit - reserve(limit)) // PER_REQUEST


def descriptor_limit() -> int:
    """What a process that this one starts may open at most, once it has asked for it."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _lowest_free(limit: int) -> int:
    """The number the next descriptor gets; at least as many are in use, but for gaps that the next
    requests fill."""
    try:
        descriptor = os.dup(0)
    except OSError:
        return limit
    os.close(descriptor)
    return descriptor
