"""What stands before Ray Serve's own request handling in a gateway replica.

Serve reads some headers before it calls our application: `x-request-timeout-seconds` sets a time
limit, `x-request-disconnect-disabled` turns off its watch for disconnects, and a client's
`x-request-id` is echoed as it came. Only a middleware named by
`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` runs earlier: that is where clients lose the switches.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware

from serving.core.wire import REQUEST_ID
from serving.gateway.routes import speaks_anthropic
from serving.protocol.anthropic import REQUEST_ID as ANTHROPIC_ID
from serving.protocol.anthropic import VERSION, error_envelope
from serving.protocol.openai import error_body

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLBACK = "serving.gateway.edge.middlewares"

_WELL_FORMED_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_CONTROL_HEADERS = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
        REQUEST_ID,
    }
)
_OWN_DISCONNECT_WATCH = (b"x-request-disconnect-disabled", b"?1")
"""The gateway watches for disconnects itself. Serve's own watch would read the whole body into an
unbounded queue before the gateway could refuse it, and costs two tasks per request."""

DIRECT_SEND = "galerne.send"
"""Scope entry: the server's own `send`, for the chunks of an answer that has begun. Serve wraps it
three times, and looks at nothing but an answer's head and end."""
HANDLED = "galerne.handled"
"""Scope entry that the gateway sets; an answer without it is Serve's own."""


def middlewares() -> list[Middleware]:
    """The callback that Serve imports."""
    return [Middleware(Edge)]


class Edge:
    """ASGI middleware: one well-formed request id, no control headers, no foreign error pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        handled = scope.setdefault(HANDLED, [])
        scope[DIRECT_SEND] = send
        request_id = _request_id(scope)
        scope["headers"] = [
            *(header for header in scope["headers"] if _may_pass(header[0])),
            (REQUEST_ID, request_id),
            _OWN_DISCONNECT_WATCH,
        ]
        anthropic = speaks_anthropic(
            scope["path"], has_version=any(name == VERSION for name, _ in scope["headers"])
        )
        await self._app(
            scope, receive, _Translator(send, handled, request_id if anthropic else None)
        )


class _Translator:
    """Replaces an error answer that Serve wrote itself with one in the API's shape, and tells
    Anthropic's SDKs the request's id, which Serve's header does not."""

    def __init__(self, send: Send, handled: list[bool], anthropic_id: bytes | None) -> None:
        self._send = send
        self._handled = handled
        self._anthropic_id = anthropic_id
        self._replaced = False

    async def __call__(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] != "http.response.start":
            await self._send(message)
            return
        if self._anthropic_id is not None:
            told = (ANTHROPIC_ID, self._anthropic_id)
            message = {**message, "headers": [*message["headers"], told]}
        if self._handled or message["status"] < 400:
            await self._send(message)
            return
        self._replaced = True
        await self._replace(message)

    async def _replace(self, message: Message) -> None:
        overloaded = message["status"] == 503
        content: dict[str, Any] = error_body(
            "The gateway is at its limit" if overloaded else "The gateway failed on this request",
            error_type="overloaded_error" if overloaded else "api_error",
            code="gateway_overloaded" if overloaded else "internal_error",
        )
        if self._anthropic_id is not None:
            content = error_envelope(content)
        body = json.dumps(content).encode()
        ids = (REQUEST_ID, ANTHROPIC_ID)
        kept = [header for header in message["headers"] if header[0].lower() in ids]
        headers = [
            *kept,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"1"),
        ]
        await self._send({**message, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _may_pass(name: bytes) -> bool:
    return name not in _CONTROL_HEADERS


def _request_id(scope: Scope) -> bytes:
    """The client's id if it is safe to log and echo, else a new one."""
    presented = next((value for key, value in scope["headers"] if key == REQUEST_ID), b"")
    if _WELL_FORMED_ID.fullmatch(presented):
        return bytes(presented)
    return f"req-{secrets.token_hex(12)}".encode()
