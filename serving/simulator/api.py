"""vLLM's HTTP interface over a simulated engine, as one plain ASGI application.

Plain, because a fleet of simulated engines shares a few cores: a streamed token costs one `send`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.json import encode
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel

from serving.simulator.bodies import (
    ChatBody,
    CompletionBody,
    CountTokensBody,
    DetokenizeBody,
    MessagesBody,
    ResponsesBody,
    TokenizeBody,
)
from serving.simulator.generation import TokenStream
from serving.simulator.openapi import describe
from serving.simulator.reading import read_body
from serving.simulator.refusal import RequestRefused
from serving.simulator.service import Generation, Service

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import Receive, Scope, Send

    Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("ray.serve")

BodyT = TypeVar("BodyT", bound=BaseModel)
ErrorBody = Callable[[RequestRefused], Mapping[str, Any]]

_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"
_NOT_SERVED = 1003
"""WebSocket close code "unsupported data" (RFC 6455, section 7.4.1)."""


class SimulatorApi:
    """The application. It needs no lifespan: the engine is started by whoever launches it."""

    def __init__(self, service: Service, *, registry: CollectorRegistry) -> None:
        self._service = service
        self._registry = registry
        self._openapi: bytes | None = None
        generates = self._generation
        answers = self._question
        self._routes: dict[str, dict[str, Handler]] = {
            "/v1/chat/completions": {"POST": generates(ChatBody, service.chat, _openai_error)},
            "/v1/completions": {
                "POST": generates(CompletionBody, service.completion, _openai_error)
            },
            "/v1/responses": {"POST": generates(ResponsesBody, service.responses, _openai_error)},
            "/v1/messages": {"POST": generates(MessagesBody, service.messages, _messages_error)},
            "/v1/messages/count_tokens": {
                "POST": answers(CountTokensBody, service.count_tokens, _messages_error)
            },
            "/tokenize": {"POST": answers(TokenizeBody, service.tokenize, _openai_error)},
            "/detokenize": {"POST": answers(DetokenizeBody, service.detokenize, _openai_error)},
            "/v1/models": {"GET": self._models},
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
            "/openapi.json": {"GET": self._describe},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _NOT_SERVED})
        else:
            await self._dispatch(scope)(scope, receive, send)

    def _dispatch(self, scope: Scope) -> Handler:
        methods = self._routes.get(scope["path"])
        if methods is None:
            return partial(_refuse, HTTPStatus.NOT_FOUND)
        return methods.get(scope["method"]) or partial(_refuse, HTTPStatus.METHOD_NOT_ALLOWED)

    def _generation(
        self,
        kind: type[BodyT],
        prepare: Callable[[BodyT, str | None], Generation],
        error_body: ErrorBody,
    ) -> Handler:
        """The handler of an endpoint that generates."""

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            raw = await _read(receive)
            if raw is None:
                return
            content_type, request_id = _headers(scope)
            try:
                body = read_body(kind, raw, content_type=content_type)
            except RequestRefused as error:
                await _respond(send, error.status, error.body)
                return
            try:
                generation = _guarded(prepare, body, request_id)
                if not generation.is_streamed:
                    await self._answer(generation, receive, send)
                    return
            except RequestRefused as error:
                await _respond(send, error.status, error_body(error))
                return
            await self._stream(generation, receive, send)

        return handle

    def _question(
        self, kind: type[BodyT], answer: Callable[[BodyT], Mapping[str, Any]], error_body: ErrorBody
    ) -> Handler:
        """The handler of an endpoint that answers at once."""

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            raw = await _read(receive)
            if raw is None:
                return
            try:
                body = read_body(kind, raw, content_type=_headers(scope)[0])
            except RequestRefused as error:
                await _respond(send, error.status, error.body)
                return
            try:
                await _respond(send, 200, _guarded(answer, body))
            except RequestRefused as error:
                await _respond(send, error.status, error_body(error))

        return handle

    async def _answer(self, generation: Generation, receive: Receive, send: Send) -> None:
        """One whole answer, unless the client leaves before.

        Raises:
            RequestRefused: the prompt cannot be answered, or the engine died.
        """
        stream, reply = generation.start()
        watch = _watch(receive, stream)
        try:
            deltas = await stream.read_all()
        except _ClientLeft:
            return
        finally:
            watch.cancel()
            self._service.engine.abort(stream)
        await _respond(send, 200, reply.whole(deltas))

    async def _stream(self, generation: Generation, receive: Receive, send: Send) -> None:
        """Tokens as they come, until the last or until the client leaves."""
        await send(_head(200, _EVENTS))
        try:
            stream, reply = generation.start()
        except RequestRefused as error:
            await send({"type": "http.response.body", "body": generation.failure(error)})
            return
        watch = _watch(receive, stream)
        try:
            if opening := reply.opening():
                await send({"type": "http.response.body", "body": opening, "more_body": True})
            while not stream.is_finished:
                chunks = reply.chunks(await stream.read())
                await send({"type": "http.response.body", "body": chunks, "more_body": True})
            await send({"type": "http.response.body", "body": reply.closing()})
        except _ClientLeft:
            return
        except RequestRefused as error:
            await send({"type": "http.response.body", "body": generation.failure(error)})
        finally:
            watch.cancel()
            self._service.engine.abort(stream)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await _respond(send, 200, self._service.models())

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        status = 503 if self._service.engine.is_dead else 200
        await _respond_bytes(send, status, b"", content_type=None)

    async def _version(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await _respond(send, 200, {"version": self._service.model.version})

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        text = generate_latest(self._registry)
        await _respond_bytes(send, 200, text, content_type=CONTENT_TYPE_LATEST.encode())

    async def _describe(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        if self._openapi is None:
            self._openapi = encode(describe(version=self._service.model.version))
        await _respond_bytes(send, 200, self._openapi, content_type=_JSON)


class _ClientLeft(Exception):
    """Nobody waits for the answer any more."""


def _guarded(call: Callable[..., Any], *args: Any) -> Any:
    """What `call` returns; its failures become refusals as vLLM's handlers make them.

    Raises:
        RequestRefused: it failed.
    """
    try:
        return call(*args)
    except (ValueError, TypeError, AttributeError) as error:
        raise RequestRefused(str(error)) from error
    except RequestRefused:
        raise
    except Exception as error:
        logger.exception("the simulated engine failed on a request")
        raise RequestRefused(
            "Internal server error", status=500, error_type="InternalServerError"
        ) from error


def _openai_error(error: RequestRefused) -> Mapping[str, Any]:
    return error.body


def _messages_error(error: RequestRefused) -> Mapping[str, Any]:
    return error.anthropic_body


def _watch(receive: Receive, stream: TokenStream) -> asyncio.Task[None]:
    """A task that fails the stream when the client disconnects."""

    async def wait_until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        stream.fail(_ClientLeft())

    return asyncio.create_task(wait_until_gone())


async def _read(receive: Receive) -> bytes | None:
    """The whole request body; `None` if the client left before its end."""
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


def _headers(scope: Scope) -> tuple[str, str | None]:
    """Content type and request id."""
    content_type, request_id = "", None
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"x-request-id":
            request_id = value.decode("latin-1")
    return content_type, request_id


def _head(status: int, content_type: bytes | None, length: int | None = None) -> dict[str, Any]:
    headers = [] if content_type is None else [(b"content-type", content_type)]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _respond(send: Send, status: int, content: Mapping[str, Any]) -> None:
    await _respond_bytes(send, status, encode(content), content_type=_JSON)


async def _respond_bytes(
    send: Send, status: int, body: bytes, *, content_type: bytes | None
) -> None:
    await send(_head(status, content_type, len(body)))
    await send({"type": "http.response.body", "body": body})


async def _refuse(status: HTTPStatus, scope: Scope, receive: Receive, send: Send) -> None:
    """As FastAPI answers where it has no route."""
    del scope, receive
    await _respond(send, status, {"detail": status.phrase})


async def _live(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})
