"""Whole bodies in and out of plain ASGI."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from msgspec.json import encode

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"


async def read_whole(receive: Receive) -> bytes | None:
    """The whole request body; `None` if the client left before its end."""
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


def read_headers(scope: Scope) -> tuple[str, str | None]:
    """Content type and request id."""
    content_type, request_id = "", None
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"x-request-id":
            request_id = value.decode("latin-1")
    return content_type, request_id


def head(status: int, content_type: bytes | None, length: int | None = None) -> dict[str, Any]:
    """The start of an answer, whose body follows."""
    headers = [] if content_type is None else [(b"content-type", content_type)]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": status, "headers": headers}


async def respond(send: Send, status: int, content: Mapping[str, Any]) -> None:
    """A whole JSON answer is sent."""
    await respond_bytes(send, status, encode(content), content_type=JSON)


async def respond_bytes(
    send: Send, status: int, body: bytes, *, content_type: bytes | None
) -> None:
    """A whole answer is sent."""
    await send(head(status, content_type, len(body)))
    await send({"type": "http.response.body", "body": body})


async def refuse(status: HTTPStatus, scope: Scope, receive: Receive, send: Send) -> None:
    """As FastAPI answers where it has no route."""
    del scope, receive
    await respond(send, status, {"detail": status.phrase})


async def live(receive: Receive, send: Send) -> None:
    """There is nothing to start or to stop."""
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})
