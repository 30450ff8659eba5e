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

from serving.protocol.journal import current_journal
from serving.rendering.bodies import DetokenizeBody, TokenizeBody
from serving.rendering.messages_body import CountTokensBody, MessagesBody
from serving.rendering.openai_bodies import ChatBody, CompletionBody
from serving.rendering.refusal import RequestRefused
from serving.rendering.responses_body import ResponsesBody
from serving.simulator.asgi import (
    EVENTS,
    JSON,
    head,
    live,
    read_headers,
    read_whole,
    refuse,
    respond,
    respond_bytes,
)
from serving.simulator.generation import TokenStream
from serving.simulator.journaled_stream import JournaledStream
from serving.simulator.openapi import describe
from serving.simulator.reading import read_body
from serving.simulator.service import Generation, Service

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import Receive, Scope, Send

    Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("ray.serve")

BodyT = TypeVar("BodyT", bound=BaseModel)
ErrorBody = Callable[[RequestRefused], Mapping[str, Any]]

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
            await live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _NOT_SERVED})
        else:
            await self._dispatch(scope)(scope, receive, send)

    def _dispatch(self, scope: Scope) -> Handler:
        methods = self._routes.get(scope["path"])
        if methods is None:
            return partial(refuse, HTTPStatus.NOT_FOUND)
        return methods.get(scope["method"]) or partial(refuse, HTTPStatus.METHOD_NOT_ALLOWED)

    def _generation(
        self,
        kind: type[BodyT],
        prepare: Callable[[BodyT, str | None], Generation],
        error_body: ErrorBody,
    ) -> Handler:
        """The handler of an endpoint that generates."""

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            raw = await read_whole(receive)
            if raw is None:
                return
            content_type, request_id = read_headers(scope)
            try:
                body = read_body(kind, raw, content_type=content_type)
            except RequestRefused as error:
                await respond(send, error.status, error.body)
                return
            try:
                generation = _guarded(prepare, body, request_id)
                if not generation.is_streamed:
                    await self._answer(generation, receive, send)
                    return
            except RequestRefused as error:
                await respond(send, error.status, error_body(error))
                return
            await self._stream(generation, receive, send)

        return handle

    def _question(
        self, kind: type[BodyT], answer: Callable[[BodyT], Mapping[str, Any]], error_body: ErrorBody
    ) -> Handler:
        """The handler of an endpoint that answers at once."""

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            raw = await read_whole(receive)
            if raw is None:
                return
            try:
                body = read_body(kind, raw, content_type=read_headers(scope)[0])
            except RequestRefused as error:
                await respond(send, error.status, error.body)
                return
            try:
                await respond(send, 200, _guarded(answer, body))
            except RequestRefused as error:
                await respond(send, error.status, error_body(error))

        return handle

    async def _answer(self, generation: Generation, receive: Receive, send: Send) -> None:
        """One whole answer, unless the client leaves before.

        Raises:
            RequestRefused: the prompt cannot be answered, or the engine died.
        """
        stream, reply = generation.start(0)
        watch = _watch(receive, stream)
        try:
            deltas = await stream.read_all()
        except _ClientLeft:
            return
        finally:
            watch.cancel()
            self._service.engine.abort(stream)
        await respond(send, 200, reply.whole(deltas))

    async def _stream(self, generation: Generation, receive: Receive, send: Send) -> None:
        """Tokens as they come, until the last or until the client leaves."""
        await send(head(200, EVENTS))
        journaled = JournaledStream(current_journal.get())
        try:
            stream, reply = journaled.start(generation)
        except RequestRefused as error:
            await send({"type": "http.response.body", "body": generation.failure(error)})
            return
        watch = _watch(receive, stream)
        try:
            if opening := reply.opening():
                await send({"type": "http.response.body", "body": opening, "more_body": True})
            async for deltas in journaled.read(stream):
                chunks = reply.chunks(deltas)
                await send({"type": "http.response.body", "body": chunks, "more_body": True})
            await send({"type": "http.response.body", "body": reply.closing()})
        except _ClientLeft:
            return
        except RequestRefused as error:
            if self._service.engine.is_dead:
                journaled.give_up()
            await send({"type": "http.response.body", "body": generation.failure(error)})
        finally:
            watch.cancel()
            self._service.engine.abort(stream)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await respond(send, 200, self._service.model.cards())

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        status = 503 if self._service.engine.is_dead else 200
        await respond_bytes(send, status, b"", content_type=None)

    async def _version(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await respond(send, 200, {"version": self._service.model.version})

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        text = generate_latest(self._registry)
        await respond_bytes(send, 200, text, content_type=CONTENT_TYPE_LATEST.encode())

    async def _describe(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        if self._openapi is None:
            self._openapi = encode(describe(version=self._service.model.version))
        await respond_bytes(send, 200, self._openapi, content_type=JSON)


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
