"""One HTTP exchange over ASGI: its head, its body within limits, its answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from serving.core.wire import REQUEST_ID
from serving.errors import RequestError
from serving.gateway.edge import DIRECT_SEND
from serving.gateway.routes import speaks_anthropic
from serving.gateway.slo import SloCounts
from serving.protocol.anthropic import VERSION as ANTHROPIC_VERSION
from serving.settings.gateway import LimitSettings
from serving.tenancy.shared_bytes import Lease

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")

Headers = list[tuple[bytes, bytes]]

_LINGER_S = 2.0
"""How long the rest of a refused upload is swallowed, so that the client reads the answer instead
of a broken pipe. Source: the same idea and default scale as nginx's `lingering_timeout`."""


class ClientGoneError(Exception):
    """The client closed its connection; nobody is left to answer."""


class Exchange:
    """A request and its answer.

    `anthropic` marks Anthropic's dialect, whose errors and model list look different.
    `status` and `bytes_sent` are what the access log reports; `sending_since` is the loop time at
    which a write began that the client has not yet taken, else `None`. `first_byte_s` is the time
    from the request's head to the first byte of the answer's body, in seconds; `on_first_byte` is
    called then. `extra_headers` go out with whatever answer there is. `slo` counts the parts of a
    stream that is promised to be fast.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: Headers = scope["headers"]
        self.anthropic = speaks_anthropic(
            self.path, has_version=self.header(ANTHROPIC_VERSION) is not None
        )
        self.request_id = (self.header(REQUEST_ID) or b"").decode("latin-1")
        self.status: int | None = None
        self.bytes_sent = 0
        self.sending_since: float | None = None
        self.first_byte_s: float | None = None
        self.is_event_stream = False
        self.on_first_byte: Callable[[], None] = _nothing
        self.slo: SloCounts | None = None
        self._taken_at = 0.0  # when the client had the latest part
        self.extra_headers: Headers = []
        self._receive = receive
        self._send = send
        self._send_chunk: Send = scope.get(DIRECT_SEND, send)
        self._body_complete = False
        self._now = asyncio.get_running_loop().time
        self._begun = self._now()

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def patience_s(self) -> float:
        """How long the client waits for a byte, in seconds; infinite if it does not say.

        OpenAI's and Anthropic's SDKs say it. Source: `_build_headers` in their `_base_client.py`.
        """
        for name in (b"x-stainless-read-timeout", b"x-stainless-timeout"):
            with contextlib.suppress(ValueError):
                seconds = float(self.header(name) or b"")
                if seconds > 0:
                    return seconds
        return math.inf

    @property
    def is_repeat(self) -> bool:
        """Whether the client says that it has sent this request before.

        Source: as above.
        """
        return (self.header(b"x-stainless-retry-count") or b"0") != b"0"

    @property
    def started(self) -> bool:
        """Whether the response head has been sent."""
        return self.status is not None

    async def read_body(self, limits: LimitSettings, lease: Lease) -> bytes:
        """The whole request body, whose parts the lease takes as they come.

        Raises:
            Overloaded: there is no memory for it.
            RequestError: `body_too_large`, or `upload_timeout` when the client is slower than
                `upload_timeout_s` plus the time its bytes so far take at `min_upload_bytes_per_s`.
            ClientGoneError: the client left before the end.
        """
        self._check_declared_length(limits)
        body = bytearray()  # rather than a list of parts, where each takes fifty bytes more
        begun = self._now()
        while not self._body_complete:
            deadline = begun + limits.upload_timeout_s + len(body) / limits.min_upload_bytes_per_s
            part = await self._read_part(deadline)
            if len(body) + len(part) > limits.max_body_bytes:
                raise _too_large(limits)
            lease.take(len(part))
            body += part
        return bytes(body)

    async def wait_for_disconnect(self) -> None:
        """Return when the client has closed its connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: Headers) -> None:
        """Send the response head."""
        self.status = status
        self.is_event_stream = any(
            key == b"content-type" and value.startswith(b"text/event-stream")
            for key, value in headers
        )
        head = [*headers, *self.extra_headers]
        await self._write({"type": "http.response.start", "status": status, "headers": head})

    async def write(self, chunk: bytes) -> None:
        """Send a part of the body; waits while the client is slow."""
        if (rest := self.push(chunk)) is not None:
            await rest

    def push(self, chunk: bytes) -> Awaitable[None] | None:
        """Send a part of the body at once; while the client is slow, what is left to be awaited."""
        now = self._now()
        if self.first_byte_s is None:
            self.first_byte_s = now - self._begun
            self.on_first_byte()
            if self.slo is not None:
                self.slo.first(self.first_byte_s)
        elif self.slo is not None:
            self.slo.gap(now - self._taken_at)
        self._taken_at = now
        self.bytes_sent += len(chunk)
        message = {"type": "http.response.body", "body": chunk, "more_body": True}
        steps = self._send_chunk(message).__await__()
        try:
            awaited = next(steps)
        except StopIteration:
            return None
        self.sending_since = now
        return self._finish_push(_Remainder(steps, awaited))

    async def _finish_push(self, remainder: _Remainder) -> None:
        await remainder
        self.sending_since = None
        self._taken_at = self._now()

    async def finish(self) -> None:
        """End the body."""
        await self._write({"type": "http.response.body", "body": b""})

    def count_missing_answer(self, *, waited_s: float, is_gone: bool) -> None:
        """Count a stream that has ended before its first part: as late, unless its own request was
        wrong, or its client has gone in time."""
        if self.slo is None or self.first_byte_s is not None:
            return
        is_own_fault = self.status is not None and 400 <= self.status < 500 and self.status != 429
        if is_gone and waited_s <= self.slo.ttft_s:
            return
        if not is_own_fault:
            self.slo.first(math.inf)

    def count_broken_answer(self) -> None:
        """Count a stream that breaks off as one whose next part never comes; what is still sent is
        no part of it."""
        self.on_first_byte = _nothing
        if self.slo is not None:
            (self.slo.first if self.first_byte_s is None else self.slo.gap)(math.inf)
            self.slo = None

    async def respond(
        self, status: int, content: Mapping[str, Any] | Sequence[Any], *headers: Any
    ) -> None:
        """Send a whole JSON answer; to a HEAD request its head alone."""
        body = json.dumps(content).encode()
        head = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ]
        if not self._body_complete and await self._swallow_upload():
            head.append((b"connection", b"close"))
        await self.start(status, head)
        if self.method == "HEAD":
            body = b""
        self.bytes_sent += len(body)
        await self._write({"type": "http.response.body", "body": body})

    async def _write(self, message: dict[str, Any]) -> None:
        self.sending_since = self._now()
        await self._send(message)
        self.sending_since = None

    async def _read_part(self, deadline: float) -> bytes:
        try:
            async with asyncio.timeout_at(deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestError(
                "The request body arrived too slowly", code="upload_timeout", retryable=True
            ) from error
        if message["type"] == "http.disconnect":
            self._body_complete = True
            raise ClientGoneError
        self._body_complete = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    def _check_declared_length(self, limits: LimitSettings) -> None:
        declared = self.header(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limits.max_body_bytes:
            raise _too_large(limits)

    async def _swallow_upload(self) -> bool:
        """Discard what the client still sends, for a bounded time; whether any was left."""
        if (self.header(b"content-length") or b"0") == b"0" and not self.header(
            b"transfer-encoding"
        ):
            return False
        try:
            async with asyncio.timeout(_LINGER_S):
                while not self._body_complete:
                    message = await self._receive()
                    self._body_complete = not message.get("more_body", False)
        except TimeoutError:
            pass
        return True


def _nothing() -> None:
    pass


class _Remainder:
    """What is left of a coroutine that was started outside of a task and has had to wait.

    A coroutine waits by yielding a future to its task; this yields it again, to the task that
    awaits the remainder.
    """

    def __init__(self, steps: Generator[Any, Any, None], awaited: object) -> None:
        self._steps = steps
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            yield self._awaited
        except BaseException as error:
            yield self._steps.throw(error)
        yield from self._steps


async def unless_gone(exchange: Exchange, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is given up when the client leaves.

    Call once the body has been read.

    Raises:
        ClientGoneError: the client left first.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(exchange.wait_for_disconnect())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        # Collects both outcomes, so that none is reported as never retrieved.
        await asyncio.gather(gone, task, return_exceptions=True)
        # A task holds its error, whose frames, this one among them, may hold the request's body.
        del gone, task


def _too_large(limits: LimitSettings) -> RequestError:
    return RequestError(
        f"The body is larger than the limit of {limits.max_body_bytes} bytes",
        code="body_too_large",
    )
