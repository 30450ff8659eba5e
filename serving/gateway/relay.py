"""Moving one request to an engine replica and its answer back, byte for byte."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from dataclasses import dataclass

from serving.core.types import TenantId
from serving.core.wire import (
    INTERNAL_TOKEN,
    JOURNAL,
    REFUSED,
    REQUEST_ID,
    RESUME,
    ROUTED,
    TENANT,
    Refusal,
)
from serving.errors import EngineError, ServingError
from serving.gateway.connections import Answer, Connections, Request
from serving.gateway.error_table import body_of, from_engine
from serving.gateway.exchange import ClientGoneError, Exchange, Headers
from serving.gateway.upstream import Sink, UpstreamError
from serving.protocol.anthropic import REQUEST_ID as ANTHROPIC_REQUEST_ID
from serving.protocol.anthropic import VERSION as ANTHROPIC_VERSION
from serving.protocol.journal import HEARTBEAT_S, JournalReader
from serving.protocol.openai import error_event
from serving.protocol.usage import pack_tenant
from serving.settings.gateway import GatewaySettings

FORWARDED_HEADERS = frozenset(
    {
        b"accept", b"content-type", b"user-agent", b"traceparent", b"tracestate",
        ANTHROPIC_VERSION, b"anthropic-beta", b"openai-beta",
    }
)  # fmt: skip
"""Request headers an engine gets to see. Everything else stays here: credentials, hop-by-hop and
Serve-control headers, and those vLLM would act on, such as `x-data-parallel-rank`."""

_WITHHELD_RESPONSE_HEADERS = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"server", b"date", REQUEST_ID,
        ANTHROPIC_REQUEST_ID,
    }
)  # fmt: skip
"""Hop-by-hop (RFC 9110, section 7.6.1), and what the gateway sets itself."""

_INTERNAL_PREFIX = b"x-galerne-"
_MAX_ERROR_BYTES = 64 * 1024
_STALL_CHECK_S = 2.0
"""Every stream wakes up this often to look for a stall."""
_MAX_QUIET = math.ceil(3 * HEARTBEAT_S / _STALL_CHECK_S)
"""Looks at a journaled stream that has shown no sign of life, after which it is lost."""


class ReplicaUnavailableError(Exception):
    """The replica refused or vanished before it answered; another one may serve the request.

    `is_full`: it is at its limit. `is_fault`: it vanished, or could not be reached.
    `may_have_run`: it had the request when it vanished.
    """

    def __init__(
        self, *, is_full: bool = False, is_fault: bool = False, may_have_run: bool = False
    ) -> None:
        super().__init__()
        self.is_full = is_full
        self.is_fault = is_fault
        self.may_have_run = may_have_run


class AnswerBrokenError(Exception):
    """The replica was lost in the middle of a stream that another one can go on with.

    `cause` is what to tell the client if none does.
    """

    def __init__(self, cause: EngineError) -> None:
        super().__init__()
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Asked:
    """What goes to an engine, and whom it is accounted to. `routed` names the prompt's parts, for
    the replica to tell all gateways, or is empty."""

    body: bytes
    tenant: TenantId
    routed: bytes = b""


@dataclass(slots=True)
class _Progress:
    """Loop times of the last byte for the client and of the replica's last sign of life, which may
    be a heartbeat, and whether it has promised those."""

    last_byte_at: float
    heard_at: float
    has_heartbeat: bool = False

    def client_waits(self, now: float) -> None:
        """From now on it is the replica that is waited for."""
        self.last_byte_at = self.heard_at = now


class Relay:
    """Sends requests to engine replicas over pooled connections.

    Args:
        connections: to the replicas.
        token: the cluster's internal token.
        settings: timeouts.
    """

    def __init__(self, connections: Connections, *, token: str, settings: GatewaySettings) -> None:
        self._connections = connections
        self._token = token.encode()
        self._settings = settings

    async def forward(
        self, exchange: Exchange, url: str, asked: Asked, *, journal: JournalReader | None
    ) -> None:
        """Answer the exchange from the replica at `url`, or go on with an answer that has begun.

        Returns once the answer is complete.

        Args:
            journal: of the answer, if it may be continued.

        Raises:
            ReplicaUnavailableError: nothing more has been sent to the client and nothing lost.
            AnswerBrokenError: the answer can be continued elsewhere.
            ServingError: the engine's refusal, silence or end.
            ClientGoneError: the client left, or stopped reading; the generation was aborted.
        """
        now = asyncio.get_running_loop().time()
        progress = _Progress(now, now)
        work = asyncio.create_task(self._transfer(exchange, url, asked, journal, progress))
        gone = asyncio.create_task(exchange.wait_for_disconnect())
        try:
            await self._supervise(exchange, work, gone, progress)
            await work
        except EngineError as error:
            if exchange.started and journal is not None and journal.can_resume:
                raise AnswerBrokenError(error) from error
            raise
        finally:
            gone.cancel()
            work.cancel()
            # Collects both outcomes, so that none is reported as never retrieved.
            await asyncio.gather(gone, work, return_exceptions=True)
            # A task holds its error, whose frames, this one among them, hold the body.
            del gone, work

    async def _supervise(
        self,
        exchange: Exchange,
        work: asyncio.Task[None],
        gone: asyncio.Task[None],
        progress: _Progress,
    ) -> None:
        """Return when the transfer has ended; raise when it has to be given up."""
        now = asyncio.get_running_loop().time
        limits = self._settings.limits
        num_quiet, heard_at = 0, progress.heard_at
        while not work.done():
            await asyncio.wait(
                {work, gone}, timeout=_STALL_CHECK_S, return_when=asyncio.FIRST_COMPLETED
            )
            if work.done():
                return
            if gone.done():
                raise ClientGoneError
            if exchange.sending_since is not None:
                if now() - exchange.sending_since > limits.stalled_read_timeout_s:
                    raise ClientGoneError
                progress.client_waits(now())  # its pause is not the engine's silence
            # Counted in looks: a gateway that was stopped itself has not heard for as long.
            is_quiet = progress.has_heartbeat and progress.heard_at == heard_at
            num_quiet = num_quiet + 1 if is_quiet else 0
            heard_at = progress.heard_at
            silence_s = now() - progress.last_byte_at
            if num_quiet >= _MAX_QUIET or silence_s > self._settings.engine_silence_timeout_s:
                raise EngineError(
                    "The engine stopped answering", code="engine_timeout", retryable=True
                )

    async def _transfer(
        self,
        exchange: Exchange,
        url: str,
        asked: Asked,
        journal: JournalReader | None,
        progress: _Progress,
    ) -> None:
        headers = self._request_headers(exchange)
        records: bytes | bytearray = b""
        headers.append((TENANT, pack_tenant(asked.tenant)))
        if asked.routed:
            headers.append((ROUTED, asked.routed))
        if journal is not None:
            headers.append((JOURNAL, journal.version or b"new"))
            if records := journal.records:
                headers.append((RESUME, b"%d" % len(records)))
        is_answering = False
        try:
            request = Request("POST", exchange.path, headers, asked.body, records)
            async with self._connections.request(url, request) as answer:
                await _start(exchange, answer, journal)
                is_answering = True
                if journal is not None and answer.head.header(JOURNAL) is None:
                    journal.give_up()
                    journal = None
                progress.client_waits(asyncio.get_running_loop().time())
                progress.has_heartbeat = journal is not None
                await answer.stream(_taker(exchange, journal, progress))
                await exchange.finish()
        except UpstreamError as error:
            if not is_answering:
                raise ReplicaUnavailableError(
                    is_fault=True, may_have_run=error.may_have_run
                ) from error
            raise EngineError(
                "The engine failed during this answer", code="engine_failed", retryable=True
            ) from error

    def _request_headers(self, exchange: Exchange) -> Headers:
        headers = [header for header in exchange.headers if header[0] in FORWARDED_HEADERS]
        if exchange.header(b"content-type") is None:
            headers.append((b"content-type", b"application/json"))
        headers.append((INTERNAL_TOKEN, self._token))
        headers.append((REQUEST_ID, exchange.request_id.encode()))
        return headers

    async def fail_midway(self, exchange: Exchange, error: ServingError) -> None:
        """Tell a client that reads a stream; whoever reads anything else is cut off.

        Raises:
            ClientGoneError: the client does not read.
        """
        if not exchange.is_event_stream:
            return
        exchange.count_broken_answer()
        event = error_event(body_of(error, anthropic=exchange.anthropic), named=exchange.anthropic)
        try:
            async with asyncio.timeout(self._settings.limits.stalled_read_timeout_s):
                await exchange.write(event)
                await exchange.finish()
        except TimeoutError as stalled:
            raise ClientGoneError from stalled


async def _start(exchange: Exchange, answer: Answer, journal: JournalReader | None) -> None:
    """Pass on the head of an answer, or see that this one goes on with the client's."""
    head = answer.head
    if (reason := head.header(REFUSED)) is not None:
        raise ReplicaUnavailableError(is_full=reason.decode() == Refusal.FULL)
    if head.status >= 300:
        raise from_engine(head.status, await _beginning(answer))
    version = head.header(JOURNAL)
    if not exchange.started:
        if journal is not None and version is not None:
            journal.version = version
        await exchange.start(head.status, _response_headers(head.headers))
    elif journal is not None and version == journal.version:
        journal.resume()
        exchange.on_first_byte()
    else:
        raise ReplicaUnavailableError


def _taker(exchange: Exchange, journal: JournalReader | None, progress: _Progress) -> Sink:
    """What is done with each part of the answer as it arrives."""
    now = asyncio.get_running_loop().time

    def take(part: bytes) -> Awaitable[None] | None:
        progress.last_byte_at = now()
        return exchange.push(part)

    def take_framed(part: bytes) -> Awaitable[None] | None:
        progress.heard_at = now()
        if payload := feed(part):
            progress.last_byte_at = progress.heard_at
            return exchange.push(payload)
        return None

    if journal is None:
        return take
    feed = journal.feed
    return take_framed


async def _beginning(answer: Answer) -> bytes:
    """The body of an error, or nothing if it is absurdly long."""
    try:
        return await answer.read(max_bytes=_MAX_ERROR_BYTES)
    except UpstreamError:
        return b""


def _response_headers(headers: Headers) -> Headers:
    named = {
        option.strip().lower()
        for name, value in headers
        if name == b"connection"
        for option in value.split(b",")
    }
    return [
        (name, value)
        for name, value in headers
        if name not in _WITHHELD_RESPONSE_HEADERS
        and name not in named
        and not name.startswith(_INTERNAL_PREFIX)
    ]
