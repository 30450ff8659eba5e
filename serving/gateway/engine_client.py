"""Questions a gateway asks engine replicas on its own behalf."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import aiohttp

from serving.core.types import ReplicaEndpoint
from serving.core.wire import INTERNAL_TOKEN, STATE_PATH
from serving.errors import EngineError

_STATE_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_DESCRIPTION_TIMEOUT = aiohttp.ClientTimeout(total=30.0)


class EngineClient:
    """Reads state and API descriptions from engine listeners."""

    def __init__(self, session: aiohttp.ClientSession, *, token: str) -> None:
        self._session = session
        self._headers = {INTERNAL_TOKEN.decode(): token}

    async def states(self, replicas: Iterable[ReplicaEndpoint]) -> list[dict[str, Any] | None]:
        """Each replica's state, asked in parallel; `None` for one that does not answer."""
        return await asyncio.gather(*(self._state(replica.url) for replica in replicas))

    async def openapi(self, url: str) -> dict[str, Any]:
        """The engine's own API description.

        Raises:
            EngineError: the replica does not answer, or not with a description.
        """
        try:
            document = await self._get(f"{url}/openapi.json", _DESCRIPTION_TIMEOUT)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise _no_description() from error
        if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):
            raise _no_description()
        return document

    async def _state(self, url: str) -> dict[str, Any] | None:
        try:
            return await self._get(url + STATE_PATH, _STATE_TIMEOUT)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None

    async def _get(self, url: str, limits: aiohttp.ClientTimeout) -> dict[str, Any]:
        async with self._session.get(url, headers=self._headers, timeout=limits) as answer:
            answer.raise_for_status()
            content: dict[str, Any] = await answer.json()
            return content


def _no_description() -> EngineError:
    return EngineError(
        "The engine does not describe its API now", code="engine_unavailable", retryable=True
    )
