"""A server whose answers take as long as it is told beforehand, and that notes when each part of
them left, to hold a load generator's figures against. It runs in the generator's own process, by
the same clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from loadtest.fake_engine import content_length, event, frame
from loadtest.generator.agenda import Agenda

_END_OF_HEAD = b"\r\n\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_TOKEN = frame(event({"choices": [{"index": 0, "delta": {"content": "a"}}]}))


@dataclass(frozen=True, slots=True)
class Delays:
    """One answer: `ttft_s` from the whole request to the first token, then a gap before each of the
    others."""

    ttft_s: float
    gaps_s: Sequence[float]


@dataclass(slots=True)
class ExactServer:
    """`url` is its address; a prompt `answer N` gets the Nth of `answers`. `times` tells when the
    tokens of each left, and at last its end, by `time.perf_counter`."""

    answers: Sequence[Delays]
    url: str = ""
    times: dict[int, list[float]] = field(default_factory=dict)


class _Answer(asyncio.Protocol):
    def __init__(self, agenda: Agenda, server: ExactServer) -> None:
        self._agenda = agenda
        self._server = server
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(_END_OF_HEAD)
        if not separator or len(rest) < (length := content_length(head)):
            return
        now = time.perf_counter()
        body, self._received = rest[:length], rest[length:]
        number = number_of(body)
        delays = self._server.answers[number]
        times = self._server.times.setdefault(number, [])
        due = now + delays.ttft_s
        self._agenda.at(due, partial(self._write, times, _HEAD + _TOKEN))
        for gap_s in delays.gaps_s:
            due += gap_s
            self._agenda.at(due, partial(self._write, times, _TOKEN))
        usage = {"prompt_tokens": 1, "completion_tokens": len(delays.gaps_s) + 1}
        end = frame(event({"choices": [], "usage": usage})) + frame(b"data: [DONE]\n\n")
        self._agenda.at(due, partial(self._write, times, end + b"0\r\n\r\n"))

    def _write(self, times: list[float], data: bytes) -> None:
        times.append(time.perf_counter())
        if self._transport is not None:
            self._transport.write(data)


def number_of(body: bytes) -> int:
    """The number in the prompt of a request: which of the answers it asks for.

    >>> number_of(b'{"messages":[{"role":"user","content":"answer 17"}]}')
    17
    """
    return int(body.rpartition(b"answer ")[2].partition(b'"')[0])


def _tell(loop: asyncio.AbstractEventLoop, error: Exception) -> None:
    loop.call_exception_handler({"message": "an answer has failed", "exception": error})


@asynccontextmanager
async def exact_server(answers: Sequence[Delays]) -> AsyncIterator[ExactServer]:
    """A running one."""
    loop = asyncio.get_running_loop()
    agenda, exact = Agenda(lambda error: _tell(loop, error)), ExactServer(answers)
    server = await loop.create_server(lambda: _Answer(agenda, exact), "127.0.0.1", 0, backlog=4096)
    host, port = server.sockets[0].getsockname()[:2]
    exact.url = f"http://{host}:{port}"
    try:
        yield exact
    finally:
        server.close()
        agenda.close()
