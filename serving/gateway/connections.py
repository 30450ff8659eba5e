"""Connections to engine replicas, kept open between requests."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from serving.errors import Overloaded
from serving.gateway.exchange import Headers
from serving.gateway.upstream import Connection, Head, Sink, UpstreamError


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a replica; `path` is as decoded, `headers` lack `host` and framing.

    `records` go before the body, as they are when the request is sent: a joined body would be a
    second one in memory for as long as the answer takes.
    """

    method: str
    path: str
    headers: Headers
    body: bytes = b""
    records: bytes | bytearray = b""


@dataclass(slots=True)
class Answer:
    """What came back on a connection: its head, and its body once that is asked for."""

    head: Head
    connection: Connection

    async def stream(self, sink: Sink) -> None:
        """Hand the body to `sink` as it arrives; returns at its end.

        Raises:
            UpstreamError: the connection broke before.
        """
        await self.connection.stream(sink)

    async def read(self, *, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            UpstreamError: it is longer than `max_bytes`, or the connection broke.
        """
        parts: list[bytes] = []
        size = 0

        def take(part: bytes) -> None:
            nonlocal size
            size += len(part)
            if size > max_bytes:
                raise UpstreamError("the answer is too long", may_have_run=True)
            parts.append(part)

        await self.stream(take)
        return b"".join(parts)


@dataclass(slots=True)
class Connections:
    """Requests to replicas over connections of its own, as many as there are requests at once.

    `connect_timeout_s` bounds the TCP handshake. Connections idle for `idle_s` are closed: sooner
    than engines close them (75 s), so that none is taken just as it goes.
    """

    connect_timeout_s: float
    idle_s: float = 60.0
    _idle: dict[str, dict[Connection, asyncio.TimerHandle]] = field(default_factory=dict)
    _busy: dict[str, set[Connection]] = field(default_factory=dict)

    @asynccontextmanager
    async def request(self, url: str, request: Request) -> AsyncIterator[Answer]:
        """The answer to a request, which is given up if the context is left before its end.

        Args:
            url: the replica's base address.

        Raises:
            UpstreamError: the replica cannot be reached, or broke the connection.
            Overloaded: this process has no file descriptor left.
        """
        answer = await self._answer(url, request)
        try:
            yield answer
        finally:
            self._end(url, answer.connection)

    def abandon(self, url: str) -> int:
        """Cut every connection to a replica; how many carried a request, which fails by that."""
        for idle in tuple(self._idle.get(url, ())):
            idle.close()
        busy = tuple(self._busy.get(url, ()))
        for connection in busy:
            connection.close()
        return len(busy)

    def close(self) -> None:
        """Drop the idle connections."""
        for connections in tuple(self._idle.values()):
            for connection in tuple(connections):
                connection.close()

    async def _answer(self, url: str, request: Request) -> Answer:
        """The answer, asked for once more if an idle connection turns out to be a dead one.

        A kept connection that ends before any byte of an answer was most likely being closed while
        the request was written. It may have run all the same, but a generation leaves nothing
        behind and costs no more than its time, so one more attempt is right, and only one.

        Source: RFC 9110, section 9.2.2 (when a client may repeat a request by itself); RFC 9112,
        section 9.3.1 (a kept connection may be closed at any time).
        """
        idle = self._take_idle(url)
        if idle is None:
            return await self._ask(url, await self._connect(url), request)
        try:
            return await self._ask(url, idle, request)
        except UpstreamError:
            if not idle.ended_unheard:
                raise
        try:
            return await self._ask(url, await self._connect(url), request)
        except UpstreamError as error:
            # A replica that cannot be reached now may have died of the first attempt.
            raise UpstreamError(str(error), may_have_run=True) from error

    async def _ask(self, url: str, connection: Connection, request: Request) -> Answer:
        self._busy.setdefault(url, set()).add(connection)
        try:
            head = await connection.ask(_head_of(url, request), request.records, request.body)
            return Answer(head, connection)
        except BaseException:
            self._end(url, connection)
            raise

    def _end(self, url: str, connection: Connection) -> None:
        self._forget_busy(url, connection)
        if connection.release():
            self._keep(url, connection)

    def _forget_busy(self, url: str, connection: Connection) -> None:
        """Without leaving empty sets: replicas come and go for as long as the gateway lives."""
        self._busy[url].discard(connection)
        if not self._busy[url]:
            del self._busy[url]

    def _take_idle(self, url: str) -> Connection | None:
        connections = self._idle.get(url)
        if not connections:
            return None
        # The last one put back is the least likely to be closed by now.
        connection, timer = connections.popitem()
        timer.cancel()
        return connection

    def _keep(self, url: str, connection: Connection) -> None:
        timer = asyncio.get_running_loop().call_later(self.idle_s, connection.close)
        self._idle.setdefault(url, {})[connection] = timer

    async def _connect(self, url: str) -> Connection:
        address = urlsplit(url)

        def forget(connection: Connection) -> None:
            connections = self._idle.get(url, {})
            if (timer := connections.pop(connection, None)) is not None:
                timer.cancel()
            if not connections:
                self._idle.pop(url, None)

        try:
            async with asyncio.timeout(self.connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(forget), address.hostname or "", address.port or 0
                )
        except (OSError, TimeoutError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise Overloaded(
                    "The gateway is at its limit",
                    code="gateway_overloaded",
                    retryable=True,
                    retry_after_s=1,
                ) from error
            raise UpstreamError(f"cannot connect: {error}", may_have_run=False) from error
        return connection


def _head_of(url: str, request: Request) -> bytes:
    """The request's head as bytes; header values must be free of line breaks, as servers check."""
    lines = [
        f"{request.method} {quote(request.path)} HTTP/1.1".encode(),
        b"host: " + urlsplit(url).netloc.encode(),
        b"content-length: %d" % (len(request.records) + len(request.body)),
        *(name + b": " + value for name, value in request.headers),
        b"\r\n",
    ]
    return b"\r\n".join(lines)
