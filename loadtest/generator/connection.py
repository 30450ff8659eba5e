"""HTTP/1.1 connections that tell when bytes came, without a task or a queue in between."""

from __future__ import annotations

import asyncio
import errno
import ssl
import time
from dataclasses import dataclass, field
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools

from loadtest.records import GENERATOR_FAILED, OUT_OF_SOCKETS

SOCKETS_USED_UP = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS)
"""What the system says to a process that may not have another socket."""

TRUNCATED = "truncated"
"""Why an answer was lost whose connection ended before it."""

_MAX_HEADERS = 256
_MAX_HEAD_BYTES = 64 * 1024
"""Also of what follows a body's last chunk."""

Headers = list[tuple[bytes, bytes]]


class Listener(Protocol):
    """Whoever waits for an answer. Times are those of `time.perf_counter`."""

    def connected(self, connection: Connection) -> bool:
        """The request is about to go out on this connection; whether it still shall."""

    def heard_head(self, status: int, headers: Headers) -> None:
        """The answer's head has come; names of headers are in lower case."""

    def heard_body(self, part: bytes, now: float) -> None:
        """A part of the answer's body has come."""

    def heard_end(self, now: float) -> None:
        """The answer has come whole."""

    def lost(self, reason: str, now: float) -> None:
        """No more will come."""


class Connection(asyncio.Protocol):
    """One connection; carries one request at a time.

    `is_kept`: it has carried another request before. `has_heard`: a byte of an answer to the
    present one has come.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._listener: Listener | None = None
        self._now = 0.0
        self._headers: Headers = []
        self._has_head = False
        self._ends_with_connection = False
        self._bytes_without_body = 0
        self.is_kept = False
        self.has_heard = False

    def ask(self, request: bytes, listener: Listener) -> None:
        """Send a whole request, whose answer goes to the listener."""
        if not listener.connected(self):
            self._connections.keep(self)
            return
        self._listener = listener
        self.has_heard = self._has_head = self._ends_with_connection = False
        self._bytes_without_body = 0
        if self._transport is None:
            self._lose("connection_lost")
        else:
            self._transport.write(request)

    def close(self) -> None:
        """Leave, without another word to the listener."""
        self._listener = None
        self._connections.forget(self)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        if self._listener is None:
            self.close()  # nobody asked for this
            return
        self.has_heard = True
        self._bytes_without_body += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self._refuse(GENERATOR_FAILED)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse("not_http")
        if self._bytes_without_body > _MAX_HEAD_BYTES:
            self._refuse("not_http")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._connections.forget(self)
        if self._ends_with_connection and exc is None and self._listener is not None:
            try:
                self._listener.heard_end(time.perf_counter())
            except Exception:
                self._lose(GENERATOR_FAILED)
            self._listener = None
        self._lose(TRUNCATED if self._has_head else "connection_lost")

    def on_message_begin(self) -> None:
        if self._listener is None:
            self.close()  # nobody asked for this: it would be taken for the next answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # what follows a chunked body says nothing here
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []
        if len(headers) > _MAX_HEADERS:
            self._refuse("not_http")
            return
        status = self._parser.get_status_code()
        self._has_head = status >= 200
        # Source: RFC 9112, section 6.3, rule 8.
        self._ends_with_connection = self._has_head and not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in headers
        )
        if self._has_head and self._listener is not None:
            self._listener.heard_head(status, headers)

    def on_body(self, body: bytes) -> None:
        self._bytes_without_body = 0
        if self._listener is not None:
            self._listener.heard_body(body, self._now)

    def on_message_complete(self) -> None:
        listener = self._listener
        if not self._has_head or listener is None:
            return  # an interim answer, 1xx, or one that nobody waits for any more
        listener.heard_end(self._now)
        self._listener = None
        if self._parser.should_keep_alive():
            self.is_kept = True
            self._connections.keep(self)
        else:
            self.close()

    def _refuse(self, reason: str) -> None:
        self._lose(reason)
        self.close()

    def _lose(self, reason: str) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.lost(reason, time.perf_counter())


@dataclass(slots=True)
class Connections:
    """Connections to one server, as many as there are requests at once, kept between them."""

    url: str
    tls: ssl.SSLContext | None = None
    _idle: dict[Connection, None] = field(default_factory=dict)
    _opening: set[asyncio.Task[None]] = field(default_factory=set)

    def ask(self, request: bytes, listener: Listener) -> None:
        """Send a request; whatever comes of it goes to the listener."""
        if self._idle:
            # The last one put back is the least likely to be closed by now.
            connection, _ = self._idle.popitem()
            connection.ask(request, listener)
        else:
            self.ask_afresh(request, listener)

    def ask_afresh(self, request: bytes, listener: Listener) -> None:
        """Send a request on a connection that has carried no other."""
        task = asyncio.get_running_loop().create_task(self._open(request, listener))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, request: bytes, listener: Listener) -> None:
        address = urlsplit(self.url)
        port = address.port or (443 if self.tls else 80)
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self), address.hostname or "", port, ssl=self.tls
            )
        except Exception as error:
            # Nobody waits for this task: what is not told to the listener is told to no one.
            listener.lost(_why_unopened(error), time.perf_counter())
        else:
            connection.ask(request, listener)

    def keep(self, connection: Connection) -> None:
        """It can carry another request."""
        self._idle[connection] = None

    def forget(self, connection: Connection) -> None:
        """It cannot."""
        self._idle.pop(connection, None)

    def close(self) -> None:
        """Drop what is idle."""
        for connection in tuple(self._idle):
            connection.close()
        for task in tuple(self._opening):
            task.cancel()


def _why_unopened(error: Exception) -> str:
    """The code of a failure to open a connection.

    >>> _why_unopened(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    'unreachable'
    >>> _why_unopened(OSError(errno.EMFILE, "too many open files"))
    'generator_out_of_sockets'
    """
    match error:
        case ssl.SSLError():  # before ValueError: a certificate's error is both
            return "tls_failed"
        case OSError():
            return OUT_OF_SOCKETS if error.errno in SOCKETS_USED_UP else "unreachable"
        case ValueError():  # UnicodeError: its labels are no IDNA
            return "bad_host_name"
        case _:
            return GENERATOR_FAILED
