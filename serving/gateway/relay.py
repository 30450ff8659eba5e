"""Moving one request to an engine replica and its answer back, byte for byte."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp

from serving.core.wire import INTERNAL_TOKEN, REFUSED, REQUEST_ID, Refusal
from serving.errors import EngineError
from serving.gateway.error_table import body_of, from_engine
from serving.gateway.exchange import ClientGoneError, Exchange, Headers
from serving.protocol.openai import error_event
from serving.settings import GatewaySettings

FORWARDED_HEADERS = frozenset(
    {
        b"accept", b"content-type", b"user-agent", b"traceparent", b"tracestate",
        b"anthropic-version", b"anthropic-beta", b"openai-beta",
    }
)  # fmt: skip
"""Request headers an engine gets to see. Everything else stays here: credentials, hop-by-hop and
Serve-control headers, and those vLLM would act on, such as `x-data-parallel-rank`."""

_WITHHELD_RESPONSE_HEADERS = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"server", b"date", b"x-request-id",
    }
)  # fmt: skip
"""Hop-by-hop (RFC 9110, section 7.6.1), and what the gateway sets itself."""

_INTERNAL_PREFIX = b"x-galerne-"
_MAX_ERROR_BYTES = 64 * 1024
_STALL_CHECK_S = 2.0
"""Every stream wakes up this often to look for a stall."""


class ReplicaUnavailableError(Exception):
    """The replica refused or vanished before it answered; another one may serve the request.

    `is_full`: it is at its limit. `may_have_run`: it had the request when it vanished.
    """

    def __init__(self, *, is_full: bool = False, may_have_run: bool = False) -> None:
        super().__init__()
        self.is_full = is_full
        self.may_have_run = may_have_run


@dataclass(slots=True)
class _Progress:
    """Loop time at which the engine last sent something."""

    last_byte_at: float


class Relay:
    """Sends requests to engine replicas over pooled connections.

    Args:
        session: an HTTP client without a limit on connections; it is closed by its owner.
        token: the cluster's internal token.
        settings: timeouts.
    """

    def __init__(
        self, session: aiohttp.ClientSession, *, token: str, settings: GatewaySettings
    ) -> None:
        self._session = session
        self._token = token
        self._settings = settings

    async def forward(
        self, exchange: Exchange, url: str, *, body: bytes, anthropic: bool = False
    ) -> None:
        """Answer the exchange from the replica at `url`.

        Returns once the answer is complete. One that fails after its first byte ends with an error
        event if it is a stream, else with a broken connection.

        Raises:
            ReplicaUnavailableError: nothing has been sent to the client and nothing lost.
            ServingError: the engine's refusal, silence or end.
            ClientGoneError: the client left, or stopped reading; the generation was aborted.
        """
        progress = _Progress(asyncio.get_running_loop().time())
        work = asyncio.create_task(self._transfer(exchange, url, body, progress))
        gone = asyncio.create_task(exchange.wait_for_disconnect())
        try:
            await self._supervise(exchange, work, gone, progress)
            await work
        except EngineError as error:
            if exchange.started:
                await self._fail_midway(exchange, error, anthropic=anthropic)
            raise
        finally:
            gone.cancel()
            work.cancel()
            # Collects both outcomes, so that none is reported as never retrieved.
            await asyncio.gather(gone, work, return_exceptions=True)

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
            elif now() - progress.last_byte_at > self._settings.engine_silence_timeout_s:
                raise EngineError(
                    "The engine stopped answering", code="engine_timeout", retryable=True
                )

    async def _transfer(
        self, exchange: Exchange, url: str, body: bytes, progress: _Progress
    ) -> None:
        now = asyncio.get_running_loop().time
        try:
            async with self._session.post(
                url + exchange.path,
                # Written in parts: one large write would hold up every other stream.
                data=io.BytesIO(body),
                headers=self._request_headers(exchange),
                allow_redirects=False,
            ) as answer:
                await self._start(exchange, answer)
                async for chunk in answer.content.iter_any():
                    await exchange.write(chunk)
                    # After the write: a client's pause is not the engine's silence.
                    progress.last_byte_at = now()
                await exchange.finish()
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            if not exchange.started:
                sent = not isinstance(error, aiohttp.ClientConnectorError)
                raise ReplicaUnavailableError(may_have_run=sent) from error
            raise EngineError(
                "The engine failed during this answer", code="engine_failed", retryable=True
            ) from error

    async def _start(self, exchange: Exchange, answer: aiohttp.ClientResponse) -> None:
        if (reason := answer.headers.get(REFUSED.decode())) is not None:
            raise ReplicaUnavailableError(is_full=reason == Refusal.FULL)
        if answer.status >= 300:
            raise from_engine(answer.status, await _read_some(answer))
        await exchange.start(answer.status, _response_headers(answer.raw_headers))

    def _request_headers(self, exchange: Exchange) -> list[tuple[str, str]]:
        headers = [
            (name.decode(), value.decode(errors="replace"))
            for name, value in exchange.headers
            if name in FORWARDED_HEADERS
        ]
        if exchange.header(b"content-type") is None:
            headers.append(("content-type", "application/json"))
        headers.append((INTERNAL_TOKEN.decode(), self._token))
        headers.append((REQUEST_ID.decode(), exchange.request_id))
        return headers

    async def _fail_midway(
        self, exchange: Exchange, error: EngineError, *, anthropic: bool
    ) -> None:
        """Tell a client that reads a stream; whoever reads anything else is cut off."""
        if not exchange.is_event_stream:
            return
        event = error_event(body_of(error, anthropic=anthropic), named=anthropic)
        try:
            async with asyncio.timeout(self._settings.limits.stalled_read_timeout_s):
                await exchange.write(event)
                await exchange.finish()
        except TimeoutError as stalled:
            raise ClientGoneError from stalled


async def _read_some(answer: aiohttp.ClientResponse) -> bytes:
    """The body of an error, or its beginning if it is absurdly long."""
    body = b""
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _MAX_ERROR_BYTES:
            break
    return body


def _response_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    lowered = [(name.lower(), value) for name, value in headers]
    named = {
        option.strip().lower()
        for name, value in lowered
        if name == b"connection"
        for option in value.split(b",")
    }
    return [
        (name, value)
        for name, value in lowered
        if name not in _WITHHELD_RESPONSE_HEADERS
        and name not in named
        and not name.startswith(_INTERNAL_PREFIX)
    ]
