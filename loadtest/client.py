"""The load client: streamed chat completions, counted as bytes and never parsed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import aiohttp
import uvloop

from loadtest.peers.base import Server

EVENT = b"data: {"
"""Begins every chunk; the closing `data: [DONE]` is none."""

_STREAM_TIMEOUT_S = 300.0
_T = TypeVar("_T")


class EventCounter:
    """Counts events in a byte stream that may be cut anywhere.

    >>> counter = EventCounter()
    >>> [counter.feed(part) for part in (b"data: {}", b"\\n\\nda", b"ta: {}\\n\\ndata: [DONE]")]
    [1, 0, 1]
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, part: bytes) -> int:
        """Events that became visible with this part."""
        # The tail is shorter than the mark, so nothing is counted twice.
        data = self._tail + part
        self._tail = data[-(len(EVENT) - 1) :]
        return data.count(EVENT)


class Pace(NamedTuple):
    """When chunks are due: one each `interval_s` after the first, at most `slack_s` late."""

    interval_s: float
    slack_s: float

    def num_in_time(self, seen: int, new: int, since_first_s: float) -> int:
        """How many of `new` chunks that arrive together, after `seen` ones, are in time.

        >>> Pace(0.1, 0.05).num_in_time(seen=2, new=3, since_first_s=0.36)
        1
        """
        earliest_due = (since_first_s - self.slack_s) / self.interval_s
        num_late = max(0, min(new, -int(-earliest_due // 1) - seen))
        return new - num_late


@dataclass(slots=True)
class Stream:
    """What one stream brought. `error` says why it failed; its chunks still count."""

    num_chunks: int = 0
    num_in_time: int = 0
    ttft_s: float | None = None
    error: str | None = None


@dataclass(slots=True)
class Tally:
    """What is happening now: streams that have had a byte and not ended, and the most at once."""

    num_open: int = 0
    max_open: int = 0
    num_chunks: int = 0

    def opened(self) -> None:
        """One more stream has begun to answer."""
        self.num_open += 1
        self.max_open = max(self.max_open, self.num_open)


@dataclass(frozen=True, slots=True)
class Shape:
    """What every stream of a load asks for."""

    num_tokens: int
    prompt: str = "Tell me a long story about the sea, the wind and ship number {index}."
    pace: Pace | None = None

    def body(self, model: str, index: int) -> dict[str, Any]:
        """A request that yields exactly `num_tokens` tokens."""
        return {
            "model": model,
            "messages": [{"role": "user", "content": self.prompt.format(index=index)}],
            "max_tokens": self.num_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }


@dataclass(slots=True)
class Client:
    """Sends streams to one server over kept connections."""

    session: aiohttp.ClientSession
    server: Server
    tally: Tally = field(default_factory=Tally)

    async def stream(self, shape: Shape, index: int = 0) -> Stream:
        """One stream, to its end or its failure."""
        result = Stream()
        try:
            await self._read(shape, index, result)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            result.error = f"{type(error).__name__}: {error}"[:200]
        finally:
            if result.ttft_s is not None:
                self.tally.num_open -= 1
        if result.error is None and result.num_chunks < shape.num_tokens // 2:
            result.error = f"only {result.num_chunks} chunks"
        return result

    async def _read(self, shape: Shape, index: int, result: Stream) -> None:
        url = f"{self.server.url}/v1/chat/completions"
        body = shape.body(self.server.model, index)
        count = EventCounter()
        begun = time.perf_counter()
        first = 0.0
        async with self.session.post(url, json=body, headers=self.server.headers) as answer:
            if answer.status != 200:
                text = (await answer.text())[:150]
                result.error = f"status {answer.status}: {text}"
                return
            async for part in answer.content.iter_any():
                now = time.perf_counter()
                if result.ttft_s is None:
                    first, result.ttft_s = now, now - begun
                    self.tally.opened()
                new = count.feed(part)
                if shape.pace is not None:
                    result.num_in_time += shape.pace.num_in_time(
                        result.num_chunks, new, now - first
                    )
                result.num_chunks += new
                self.tally.num_chunks += new

    async def streams(self, shape: Shape, count: int, *, ramp_s: float = 0.0) -> list[Stream]:
        """That many streams at once, begun evenly over `ramp_s`."""

        async def one(index: int) -> Stream:
            await asyncio.sleep(ramp_s * index / count)
            return await self.stream(shape, index)

        return await asyncio.gather(*map(one, range(count)))


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Client]:
    """A client without a limit of its own on connections."""
    timeout = aiohttp.ClientTimeout(total=_STREAM_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield Client(session, server)


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work` on the fastest event loop there is."""
    result: _T = uvloop.run(work)
    return result


def num_failed(streams: list[Stream]) -> int:
    """Streams that ended in an error."""
    return sum(stream.error is not None for stream in streams)


def first_error(streams: list[Stream]) -> str | None:
    """The first stream's error, if any failed."""
    return next((stream.error for stream in streams if stream.error), None)
