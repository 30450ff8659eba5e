"""Questions a gateway asks engine replicas on its own behalf."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from serving.core.types import ReplicaEndpoint
from serving.core.wire import INTERNAL_TOKEN, STATE_PATH
from serving.errors import EngineError
from serving.gateway.connections import Connections, Request
from serving.gateway.upstream import UpstreamError

_STATE_TIMEOUT_S = 2.0
_DESCRIPTION_TIMEOUT_S = 30.0
_MAX_BYTES = 16 * 1024 * 1024


class EngineClient:
    """Reads state and API descriptions from engine listeners."""

    def __init__(self, connections: Connections, *, token: str) -> None:
        self._connections = connections
        self._headers = [(INTERNAL_TOKEN, token.encode())]

    async def states(self, replicas: Iterable[ReplicaEndpoint]) -> list[dict[str, Any] | None]:
        """Each replica's state, asked in parallel; `None` for one that does not answer."""
        return await asyncio.gather(*(self._state(replica.url) for replica in replicas))

    async def openapi(self, url: str) -> dict[str, Any]:
        """The engine's own API description.

        Raises:
            EngineError: the replica does not answer, or not with a description.
        """
        try:
            document = await self._get(url, "/openapi.json", timeout_s=_DESCRIPTION_TIMEOUT_S)
        except (UpstreamError, TimeoutError, ValueError) as error:
            raise _no_description() from error
        if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):
            raise _no_description()
        return document

    async def _state(self, url: str) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = await self._get(url, STATE_PATH, timeout_s=_STATE_TIMEOUT_S)
        except (UpstreamError, TimeoutError, ValueError):
            return None
        return state

    async def _get(self, url: str, path: str, *, timeout_s: float) -> Any:
        """The answer's JSON.

        Raises:
            ValueError: it is none.
        """
        request = Request("GET", path, self._headers)
        async with asyncio.timeout(timeout_s), self._connections.request(url, request) as answer:
            if answer.head.status != 200:
                raise ValueError(f"status {answer.head.status}")
            return json.loads(await answer.read(max_bytes=_MAX_BYTES))


def _no_description() -> EngineError:
    return EngineError(
        "The engine does not describe its API now", code="engine_unavailable", retryable=True
    )
