"""Waking models that have no replica."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from serving.core.types import ModelId

_AGAIN_S = 5.0
"""A controller that restarts forgets who has called."""


class Alarm:
    """Calls for a first replica of a model as long as requests wait for one.

    Args:
        wake: calls once.
        is_needed: whether requests wait, and there is no replica.
        sleep: waits some seconds.
    """

    def __init__(
        self,
        wake: Callable[[ModelId], Awaitable[object]],
        is_needed: Callable[[ModelId], bool],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._wake = wake
        self._is_needed = is_needed
        self._sleep = sleep
        self._ringing: dict[ModelId, asyncio.Task[None]] = {}

    def ring(self, model: ModelId) -> None:
        """A request has begun to wait."""
        if (ringing := self._ringing.get(model)) is None or ringing.done():
            self._ringing[model] = asyncio.get_running_loop().create_task(self._ring(model))

    async def _ring(self, model: ModelId) -> None:
        while self._is_needed(model):
            await self._wake(model)
            await self._sleep(_AGAIN_S)
