"""Serving a request whose answer another replica could go on with, or that another began."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from serving.core.wire import JOURNAL, RESUME
from serving.protocol.journal import HEARTBEAT_S, Journal, current_journal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


_PART = {"type": "http.response.body", "more_body": True}


class BadJournalError(Exception):
    """The caller handed over something that is no journal."""


def is_journaled(scope: Scope) -> bool:
    """Whether the caller keeps a journal of the answer."""
    return any(name == JOURNAL for name, _ in scope["headers"])


async def serve_journaled(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, version: str
) -> None:
    """Let the application answer, in frames if the answer is a stream.

    The journal of what another replica began stands before the body; `RESUME` tells its length, and
    `JOURNAL` the version of that replica: another template or parser would make other bytes.

    Raises:
        BadJournalError: nothing was sent.
    """
    told = b""
    headers = dict(scope["headers"])
    if (size := headers.get(RESUME)) is not None:
        if headers[JOURNAL] != version.encode() or not size.isdigit():
            raise BadJournalError
        body = _Body(receive)
        told = await body.take(int(size))
        kept = [header for header in scope["headers"] if header[0] != b"content-length"]
        scope, receive = {**scope, "headers": kept}, body.receive
    try:
        journal = Journal(told)
    except ValueError as error:
        raise BadJournalError from error
    token = current_journal.set(journal)
    journaled = _JournaledSend(send, journal, version.encode())
    beating = asyncio.create_task(journaled.beat())
    try:
        await app(scope, receive, journaled)
    finally:
        beating.cancel()
        current_journal.reset(token)


class _Body:
    """A request body of which the beginning is taken off."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left: list[Message] = []

    async def take(self, size: int) -> bytes:
        """The first `size` bytes.

        Raises:
            BadJournalError: there are fewer.
        """
        taken = bytearray()
        while len(taken) < size:
            message = await self._receive()
            taken += message.get("body", b"")
            if not message.get("more_body", False):
                break
        if len(taken) < size:
            raise BadJournalError
        rest = {"type": "http.request", "body": bytes(taken[size:])}
        self._left.append({**rest, "more_body": message.get("more_body", False)})
        return bytes(taken[:size])

    async def receive(self) -> Message:
        """What is left, as the server's own `receive` gives it."""
        return self._left.pop() if self._left else await self._receive()


class _JournaledSend:
    """Cuts a streamed answer into frames; other answers pass as they are.

    An answer that this replica cannot finish is not ended either: the server then breaks the
    connection, which tells the gateway to go on elsewhere.
    """

    def __init__(self, send: Send, journal: Journal, version: bytes) -> None:
        self._send = send
        self._journal = journal
        self._version = version
        self._is_framed = False
        self._now = asyncio.get_running_loop().time
        self._sent_at = self._now()

    async def beat(self) -> None:
        """Show that the connection is alive while there is nothing to send."""
        while True:
            await asyncio.sleep(self._sent_at + HEARTBEAT_S - self._now())
            if self._now() - self._sent_at < HEARTBEAT_S:
                continue
            self._sent_at = self._now()
            if self._is_framed and not self._journal.is_lost:
                await self._send({**_PART, "body": self._journal.heartbeat()})

    async def __call__(self, message: Message) -> None:
        journal = self._journal
        if message["type"] == "http.response.start":
            self._is_framed = message["status"] == 200 and _is_event_stream(message)
            if self._is_framed:
                message = {**message, "headers": [*message["headers"], (JOURNAL, self._version)]}
        elif self._is_framed:
            if journal.is_lost:
                return
            payload = message.get("body", b"")
            framed = journal.frame(payload) if payload else b""
            if journal.is_silent or not (framed or not message.get("more_body", False)):
                return
            message = {**message, "body": framed}
        self._sent_at = self._now()
        if self._is_framed and not message.get("more_body", True):
            self._is_framed = False  # nothing may follow
        await self._send(message)


def _is_event_stream(message: Message) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message["headers"]
    )
