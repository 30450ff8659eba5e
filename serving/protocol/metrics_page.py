"""A process's metrics as an HTTP page for Prometheus, for holders of a token."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PATH = "/metrics"


class MetricsPage:
    """An ASGI application that serves `GET /metrics` and nothing else.

    Args:
        registry: what to show.
        token: must be presented as `Authorization: Bearer TOKEN`, which Prometheus can send.
    """

    def __init__(self, registry: CollectorRegistry, *, token: str) -> None:
        self._registry = registry
        self._authorization = b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        if scope["type"] != "http":
            return
        if not self._is_allowed(scope):
            await _respond(send, 401, b"", (b"www-authenticate", b"Bearer"))
        elif scope["path"] != PATH or scope["method"] != "GET":
            await _respond(send, 404, b"")
        else:
            # Some 10 ms for an engine's hundred histograms, too long between two tokens.
            page = await asyncio.to_thread(generate_latest, self._registry)
            await _respond(send, 200, page, (b"content-type", CONTENT_TYPE_LATEST.encode()))

    def _is_allowed(self, scope: Scope) -> bool:
        presented = next((v for k, v in scope["headers"] if k == b"authorization"), b"")
        return hmac.compare_digest(presented, self._authorization)


async def _respond(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    head = [(b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
