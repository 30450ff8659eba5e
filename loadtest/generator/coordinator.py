"""The side of a load test that does not send: it tells workers what to send, and when to begin, and
gathers what they report. It is a process of its own, so that showing and keeping results never
delays a request."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
from aiohttp import web

from loadtest.about import WorkerFigures
from loadtest.generator.messages import Orders, Report, Share, Start
from loadtest.records import Record

_HEAD_START_S = 0.5
"""Between the word to begin and the beginning: the slowest worker must have got it."""
_MAX_SILENCE_S = 15.0
_MAX_REPORT_BYTES = 256 * 1024 * 1024

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WorkerLostError(RuntimeError):
    """A worker has gone, or could not begin; what it should have sent was not sent."""


@dataclass(slots=True)
class _Member:
    """A worker that has come; `heard` is when it last said anything."""

    share: Share
    host: str
    heard: float
    is_ready: bool = False

    @property
    def name(self) -> str:
        """What to call it before a person."""
        return f"worker {self.share.worker} on {self.host}"


class Coordinator:
    """Gives out shares and takes in reports; `on_records` gets records as they come.

    A worker that is silent before the start loses its share to the next one that joins.

    Args:
        is_last: no other run follows this one, so that workers may end with it.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        token: str,
        on_records: Callable[[Sequence[Record]], None],
        *,
        is_last: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._to_join = list(reversed(shares))
        self._token = token
        self._on_records = on_records
        self._is_last = is_last
        self._clock = clock
        self._num_workers = len(shares)
        self._num_members = 0
        self._members: dict[int, _Member] = {}
        self._news: list[str] = []
        self._all_ready = asyncio.Event()
        self._in_flight: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        self._figures: dict[int, WorkerFigures] = {}
        self._stop = False
        self._result: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun: float | None = None

    @property
    def num_joined(self) -> int:
        """Workers that have come, and are still there."""
        return len(self._members)

    @property
    def num_in_flight(self) -> int:
        """Requests that wait for their answers, by the latest reports."""
        return sum(self._in_flight.values())

    @property
    def num_sent(self) -> int:
        """Requests sent so far, by the latest reports."""
        return sum(self._sent.values())

    @property
    def figures(self) -> tuple[WorkerFigures, ...]:
        """What the workers that have ended say of themselves."""
        return tuple(self._figures[worker] for worker in sorted(self._figures))

    def take_news(self) -> tuple[str, ...]:
        """What a person should know of the workers that has not been taken yet."""
        news, self._news = tuple(self._news), []
        return news

    def stop(self) -> None:
        """Have the workers end with their next report."""
        self._stop = True

    def fail(self, reason: str) -> None:
        """End the run: it cannot be whole any more."""
        if not self._result.done():
            self._result.set_exception(WorkerLostError(reason))

    async def finished(self, timeout_s: float) -> bool:
        """Whether all workers have ended, within this time.

        Raises:
            WorkerLostError: one has gone before its end.
        """
        await asyncio.wait([self._result], timeout=timeout_s)
        if self._result.done():
            self._result.result()
            return True
        now = self._clock()
        for number, member in tuple(self._members.items()):
            has_ended = member.share.worker in self._figures
            if not has_ended and now - member.heard > _MAX_SILENCE_S:
                self._lose(number)
        return False

    def _lose(self, number: int) -> None:
        member = self._members[number]
        silence = f"{member.name} has said nothing for {_MAX_SILENCE_S:.0f} s"
        if self.begun is not None:
            raise WorkerLostError(silence)
        del self._members[number]
        self._to_join.append(member.share)
        self._news.append(f"{silence}: the next one that joins replaces it")

    def application(self) -> web.Application:
        """The coordinator's HTTP interface."""
        application = web.Application(
            middlewares=[self._authenticated], client_max_size=_MAX_REPORT_BYTES
        )
        application.add_routes(
            [
                web.post("/join", self._join),
                web.post("/alive", self._alive),
                web.post("/ready", self._wait),
                web.post("/report", self._report),
            ]
        )
        return application

    @web.middleware
    async def _authenticated(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        shown = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(shown, f"Bearer {self._token}".encode()):
            raise web.HTTPUnauthorized
        return await handler(request)

    async def _join(self, request: web.Request) -> web.Response:
        host = msgspec.msgpack.decode(await request.read(), type=str)
        if not self._to_join:
            raise web.HTTPConflict(text="this load test has all its workers")
        self._num_members += 1
        share = msgspec.structs.replace(self._to_join.pop(), member=self._num_members)
        self._members[share.member] = _Member(share, host, self._clock())
        return _packed(share)

    async def _alive(self, request: web.Request) -> web.Response:
        await self._member(request)
        return _packed(None)

    async def _wait(self, request: web.Request) -> web.Response:
        member = await self._member(request)
        member.is_ready = True
        num_ready = sum(each.is_ready for each in self._members.values())
        if num_ready == self._num_workers and self.begun is None:
            self.begun = time.perf_counter() + _HEAD_START_S
            for each in self._members.values():
                each.heard = self._clock()
            self._all_ready.set()
        await self._all_ready.wait()
        if self._members.get(member.share.member) is not member:
            raise web.HTTPGone
        return _packed(Start(_HEAD_START_S))

    async def _member(self, request: web.Request) -> _Member:
        """Whoever asks, who has just been heard."""
        number = msgspec.msgpack.decode(await request.read(), type=int)
        if (member := self._members.get(number)) is None:
            raise web.HTTPGone(text="this worker was silent, and its share is another one's")
        member.heard = self._clock()
        return member

    async def _report(self, request: web.Request) -> web.Response:
        report = msgspec.msgpack.decode(await request.read(), type=Report)
        members = self._members.values()
        member = next((m for m in members if m.share.worker == report.worker), None)
        if report.error is not None:
            self.fail(report.error if member is None else f"{member.name}: {report.error}")
            return _packed(Orders(stop=True, is_over=True))
        if member is not None:
            member.heard = self._clock()
        self._in_flight[report.worker] = report.num_in_flight
        self._sent[report.worker] = report.num_sent
        self._on_records(report.records)
        if report.figures is not None:
            self._figures[report.worker] = WorkerFigures(**report.figures)
        if len(self._figures) == self._num_workers and not self._result.done():
            self._result.set_result(None)
        return _packed(Orders(self._stop, is_over=self._is_last or self._stop))


def _packed(content: object) -> web.Response:
    return web.Response(body=msgspec.msgpack.encode(content), content_type="application/msgpack")
