"""The side of a load test that does not send: it tells workers what to send, and when to begin, and
gathers what they report. It is a process of its own, so that showing and keeping results never
delays a request."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence

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


class Coordinator:
    """Gives out shares and takes in reports; `on_records` gets records as they come."""

    def __init__(
        self,
        shares: Sequence[Share],
        token: str,
        on_records: Callable[[Sequence[Record]], None],
    ) -> None:
        self._to_join = list(reversed(shares))
        self._token = token
        self._on_records = on_records
        self._num_workers = len(shares)
        self._ready: set[int] = set()
        self._all_ready = asyncio.Event()
        self._in_flight: dict[int, int] = {}
        self._sent: dict[int, int] = {}
        self._heard: dict[int, float] = {}
        self._figures: dict[int, WorkerFigures] = {}
        self._stop = False
        self._result: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun: float | None = None

    @property
    def num_joined(self) -> int:
        """Workers that have come."""
        return self._num_workers - len(self._to_join)

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
        now = time.monotonic()
        for worker, heard in self._heard.items():
            if worker not in self._figures and now - heard > _MAX_SILENCE_S:
                raise WorkerLostError(
                    f"worker {worker} has said nothing for {_MAX_SILENCE_S:.0f} s"
                )
        return False

    def application(self) -> web.Application:
        """The coordinator's HTTP interface."""
        application = web.Application(
            middlewares=[self._authenticated], client_max_size=_MAX_REPORT_BYTES
        )
        application.add_routes(
            [
                web.post("/join", self._join),
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

    async def _join(self, _request: web.Request) -> web.Response:
        if not self._to_join:
            raise web.HTTPConflict(text="this load test has all its workers")
        return _packed(self._to_join.pop())

    async def _wait(self, request: web.Request) -> web.Response:
        self._ready.add(msgspec.msgpack.decode(await request.read(), type=int))
        if len(self._ready) == self._num_workers:
            self.begun = time.perf_counter() + _HEAD_START_S
            self._heard = dict.fromkeys(self._ready, time.monotonic())
            self._all_ready.set()
        await self._all_ready.wait()
        return _packed(Start(_HEAD_START_S))

    async def _report(self, request: web.Request) -> web.Response:
        report = msgspec.msgpack.decode(await request.read(), type=Report)
        if report.error is not None:
            self.fail(report.error)
            return _packed(Orders(stop=True))
        self._heard[report.worker] = time.monotonic()
        self._in_flight[report.worker] = report.num_in_flight
        self._sent[report.worker] = report.num_sent
        self._on_records(report.records)
        if report.figures is not None:
            self._figures[report.worker] = WorkerFigures(**report.figures)
        if len(self._figures) == self._num_workers and not self._result.done():
            self._result.set_result(None)
        return _packed(Orders(self._stop))


def _packed(content: object) -> web.Response:
    return web.Response(body=msgspec.msgpack.encode(content), content_type="application/msgpack")
