"""What an engine replica's listener demands of a caller: the cluster's token, and room.

Plain ASGI, knows nothing of vLLM: it stands in front of any engine application.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from serving.core.types import TenantId
from serving.core.wire import (
    INTERNAL_TOKEN,
    REFUSED,
    ROUTED,
    STATE_PATH,
    STATE_STREAM_PATH,
    TENANT,
    Refusal,
)
from serving.engine.journaling import BadJournalError, is_journaled, serve_journaled
from serving.protocol.journal import current_journal
from serving.protocol.usage import RequestUsage, TokenCounts, current_usage, unpack_tenant

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


_NOT_SERVED = 1003
"""WebSocket close code "unsupported data" (RFC 6455, section 7.4.1)."""


class EngineGuard:
    """An ASGI application around the engine's own: authenticates, counts, refuses, drains.

    Args:
        app: the engine's application.
        token: the cluster's internal token.
        max_in_flight: requests accepted at once.
        version: of the replica; answers go on only where they would be the same.
        state: gives this replica's state for `STATE_PATH`.
        stream: answers `STATE_STREAM_PATH`, until the caller leaves.

    `on_refusal` is called with the reason of each refusal, `on_routed` with the `ROUTED` header of
    requests that have one, `on_usage` at the end of each request, whatever end, with its tenant and
    what it has taken of the engine.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        max_in_flight: int,
        version: str,
        state: Callable[[], Mapping[str, Any]],
        stream: Callable[[Receive, Send], Awaitable[None]],
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._max_in_flight = max_in_flight
        self._version = version
        self._state = state
        self._stream = stream
        self.is_draining = False
        self.on_refusal: Callable[[Refusal], None] = _ignore
        self.on_routed: Callable[[bytes], None] = _ignore
        self.on_usage: Callable[[TenantId, TokenCounts], None] = _ignore
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _NOT_SERVED})
        elif not self._is_ours(scope):
            await self._refuse(send, 401, Refusal.UNAUTHENTICATED)
        elif scope["path"] == STATE_PATH:
            await _respond(send, 200, self.describe())
        elif scope["path"] == STATE_STREAM_PATH:
            await self._stream(receive, send)
        elif self.is_draining:
            await self._refuse(send, 503, Refusal.DRAINING)
        elif self.in_flight >= self._max_in_flight:
            await self._refuse(send, 503, Refusal.FULL)
        else:
            await self._serve(scope, receive, send)

    def describe(self) -> dict[str, Any]:
        """This replica's state, for `STATE_PATH`."""
        return {**self._state(), "in_flight": self.in_flight, "draining": self.is_draining}

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for the running ones; whether all finished in time."""
        self.is_draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _refuse(self, send: Send, status: int, reason: Refusal) -> None:
        self.on_refusal(reason)
        await _respond(send, status, {"refused": reason}, (REFUSED, reason.encode()))

    def _is_ours(self, scope: Scope) -> bool:
        presented = next((v for k, v in scope["headers"] if k == INTERNAL_TOKEN), b"")
        return hmac.compare_digest(presented, self._token)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if ROUTED in headers:
            self.on_routed(headers[ROUTED])
        closing = _CloseAfterFailure(send)
        usage = RequestUsage()
        current_usage.set(usage)
        self.in_flight += 1
        self._idle.clear()
        try:
            if is_journaled(scope):
                await serve_journaled(self._app, scope, receive, closing, version=self._version)
            else:
                # A server may call this in the context of an earlier request of the connection.
                current_journal.set(None)
                await self._app(scope, receive, closing)
        except BadJournalError:
            await self._refuse(send, 400, Refusal.BAD_JOURNAL)
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self._idle.set()
            self.on_usage(unpack_tenant(headers.get(TENANT, b"")), usage.settle())


class _CloseAfterFailure:
    """Adds `connection: close` to answers of 500 and above.

    Starlette raises an application's exception again once its error answer is out, and uvicorn
    then closes the connection: a caller that was not told would write its next request into it.
    Source: `ServerErrorMiddleware.__call__`, starlette; `RequestResponseCycle.run_asgi`, uvicorn.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 500:
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await self._send(message)


def _ignore(*_told: object) -> None:
    pass


async def _respond(
    send: Send, status: int, content: Mapping[str, Any], *headers: tuple[bytes, bytes]
) -> None:
    body = json.dumps(content).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*head, *headers]})
    await send({"type": "http.response.body", "body": body})
