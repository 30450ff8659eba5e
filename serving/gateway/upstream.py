"""One HTTP/1.1 connection to an engine replica: a request out, its answer in as it arrives.

The body of an answer goes to its taker from `data_received`, in the same pass of the event loop
that read it. A reader to await would cost a task switch and another pass for every token
(docs/adr/0009-upstream-connections.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import httptools

from serving.gateway.exchange import Headers

Sink = Callable[[bytes], Awaitable[None] | None]
"""Takes a part of a body. What it returns, if anything, has to be awaited before the next part."""

_PART_BYTES = 256 * 1024
"""Bodies are written in parts: one large write would hold up every other stream."""


class UpstreamError(Exception):
    """The replica cannot be reached, vanished, or does not speak HTTP.

    `may_have_run`: it may have got the whole request.
    """

    def __init__(self, message: str, *, may_have_run: bool) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run


@dataclass(frozen=True, slots=True)
class Head:
    """An answer's status and headers; names are in lower case."""

    status: int
    headers: Headers

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


class Connection(asyncio.Protocol):
    """Carries one request at a time: `ask`, then `stream`.

    Everything happens on one event loop, and one task at a time uses a connection. It waits for
    changes of state, which the callbacks of the transport make, in `_change`.

    `on_close` is called when the connection is gone, by whichever side.
    """

    def __init__(self, on_close: Callable[[Connection], None]) -> None:
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._can_write = True
        self._waiter: asyncio.Future[None] | None = None
        self._lost: str | None = None
        self._is_given_up = False
        self._begin()
        self._is_complete = True  # nothing has been asked

    def _begin(self) -> None:
        """Forget the last answer."""
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._head: Head | None = None
        self._parts: list[bytes] = []
        self._sink: Sink | None = None
        self._sink_error: Exception | None = None
        self._rest: Awaitable[None] | None = None
        self._is_complete = False
        self._is_sent = False
        self._has_heard = False
        self._keeps_alive = False

    # --- for its user ----------------------------------------------------------------------------

    async def ask(self, head: bytes, *bodies: bytes | bytearray) -> Head:
        """Send a request, its body in one piece or several; the head of its answer.

        Raises:
            UpstreamError: the connection broke.
        """
        self._begin()
        for part in _parts_of(head, bodies):
            self._write(part)
            while not self._can_write and self._head is None:
                self._check()
                await self._change()
            if self._head is not None:
                break  # it has answered without the rest
        else:
            self._is_sent = True
        while self._head is None:
            self._check()
            await self._change()
        return self._head

    async def stream(self, sink: Sink) -> None:
        """Hand the body to `sink` as it arrives; returns at its end.

        Raises:
            UpstreamError: the connection broke before.
            Exception: what `sink` raises.
        """
        self._sink = sink
        self._deliver()
        while True:
            if self._sink_error is not None:
                raise self._sink_error
            if self._rest is not None:
                rest, self._rest = self._rest, None
                await rest
                self._deliver()
            elif self._is_complete:
                return
            else:
                self._check()
                self._resume()
                await self._change()

    def release(self) -> bool:
        """End the request; whether the connection can carry another. If not, it is closed."""
        if self._is_complete and self._is_sent and self._keeps_alive and self._lost is None:
            self._resume()
            return True
        self.close()
        return False

    @property
    def ended_unheard(self) -> bool:
        """Whether the other side ended it before any byte of the answer to the last request."""
        return self._lost is not None and not self._has_heard and not self._is_given_up

    def close(self) -> None:
        """Drop the connection; the replica sees its caller leave."""
        if self._transport is not None:
            self._is_given_up = True
            self._transport.abort()

    # --- what the transport calls ----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._is_complete:
            self.close()  # nothing was asked
            return
        self._has_heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lost = f"not HTTP: {error}"
            self.close()
        self._deliver()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = self._lost or str(exc or "closed by the replica")
        self._transport = None
        self._wake()
        self._on_close(self)

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        self._wake()

    # --- what the parser calls -------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._head = Head(status, self._headers)
            # A server whose application failed closes after its answer, and need not say so in the
            # head: uvicorn does not.
            self._keeps_alive = self._parser.should_keep_alive() and status < 500
            self._wake()
        self._headers = []

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._is_complete = self._head is not None
        self._wake()

    # --- inside ----------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Give what has arrived to the sink, if there is one and it is not busy."""
        if not self._parts or self._sink_error is not None:
            return
        if self._sink is None or self._rest is not None:
            self._pause()
            return
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        try:
            self._rest = self._sink(body)
        except Exception as error:
            self._sink_error = error
        if self._rest is not None or self._sink_error is not None:
            self._pause()
            self._wake()

    def _pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        self._check()
        if self._transport is not None:
            self._transport.write(data)

    def _check(self) -> None:
        if self._lost is not None:
            raise UpstreamError(self._lost, may_have_run=True)

    async def _change(self) -> None:
        """Return when one of the callbacks has changed something."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _parts_of(head: bytes, bodies: Sequence[bytes | bytearray]) -> Iterator[bytes]:
    """What is written at a time: the head goes out with what is next."""
    for body in bodies:
        for start in range(0, len(body), _PART_BYTES):
            yield head + body[start : start + _PART_BYTES]
            head = b""
    if head:
        yield head
