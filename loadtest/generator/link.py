"""How a worker talks with its coordinator."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import msgspec

from loadtest.generator.messages import Share

_BEAT_S = 3.0
_RETRY_S = 1.0
_NEVER = aiohttp.ClientTimeout(total=None, sock_connect=10)
_HAS_ALL_WORKERS = 409

_T = TypeVar("_T")
Ask = Callable[[str, object, type[_T]], Awaitable[_T]]


class Link:
    """Requests to the coordinator at `url`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, path: str, content: object, answer: type[_T]) -> _T:
        """What the coordinator says to this.

        Raises:
            aiohttp.ClientError: it is away, or refuses.
            msgspec.DecodeError: it is something else that answers.
        """
        body = msgspec.msgpack.encode(content)
        try:
            async with self._session.post(self._url + path, data=body) as response:
                response.raise_for_status()
                said = await response.read()
        except UnicodeError as error:  # its host is no name; aiohttp lets this one through
            raise aiohttp.InvalidURL(self._url) from error
        try:
            return msgspec.msgpack.decode(said, type=answer)
        except UnicodeDecodeError as error:
            raise msgspec.DecodeError(str(error)) from error

    @asynccontextmanager
    async def alive(self, member: int) -> AsyncIterator[None]:
        """The coordinator hears meanwhile that this worker is still there."""
        beating = asyncio.create_task(self._beat(member))
        try:
            yield
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating

    async def _beat(self, member: int) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            # Whoever waits for the coordinator's word learns of its end.
            with suppress(aiohttp.ClientError, OSError):
                await self.ask("/alive", member, type(None))


@asynccontextmanager
async def linked(url: str, token: str) -> AsyncIterator[Link]:
    """A link to the coordinator at this address."""
    headers = {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers, timeout=_NEVER) as session:
        yield Link(session, url)


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a worker asks a coordinator that is away, and the clock it does so by."""

    limit_s: float
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


async def join(ask: Ask[Share], patience: Patience) -> Share:
    """A share of the load test.

    A coordinator that has all its workers is asked again: one of them may be lost, or another run
    may follow.

    Raises:
        aiohttp.ClientConnectionError: it was away for all the time there is patience for.
        aiohttp.ClientResponseError: it refuses.
    """
    heard = patience.now()
    while True:
        try:
            return await ask("/join", platform.node(), Share)
        except aiohttp.ClientResponseError as error:
            if error.status != _HAS_ALL_WORKERS or not patience.limit_s:
                raise
            heard = patience.now()
        except aiohttp.ClientConnectionError:
            if patience.now() - heard >= patience.limit_s:
                raise
        await patience.sleep(_RETRY_S)
