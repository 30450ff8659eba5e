"""A load test from its beginning to its records."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import polars as pl
from aiohttp import web

from loadtest.about import About
from loadtest.generator import preflight
from loadtest.generator.coordinator import Coordinator, WorkerLostError
from loadtest.generator.keys import key_of
from loadtest.generator.messages import KEY_VARIABLE, TOKEN_VARIABLE, Share
from loadtest.generator.target import Target
from loadtest.machine import describe
from loadtest.records import Record, frame
from loadtest.workload.spec import Workload
from serving import __version__
from serving.errors import ConfigError, EngineError

_POLL_S = 0.5
_STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the coordinator waits for workers that others start, with what they have to show."""

    host: str
    port: int
    token: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A load test. `key` is the API key of every traffic that names no other; `rate_scale`
    multiplies every rate. Workers are processes of this machine unless `listen` is given; unless it
    `is_last`, they join the next run, too."""

    target: Target
    workload: Workload
    key: str | None = None
    rate_scale: float = 1.0
    timeout_s: float = 300.0
    num_workers: int = 1
    tokenizer: Path | None = None
    listen: Listen | None = None
    is_last: bool = True
    title: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """A run while it goes on. `recent` are the requests that have ended since the last moment, and
    `news` what a person should know that has happened since."""

    elapsed_s: float
    num_sent: int
    num_in_flight: int
    recent: Sequence[Record]
    num_joined: int
    news: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What a run has brought."""

    about: About
    records: pl.DataFrame


Watch = Callable[[Moment], None]


class NothingSentError(Exception):
    """The run was interrupted before it began."""


async def load(plan: Plan, watch: Watch, interrupted: asyncio.Event) -> Result:
    """Send a workload and gather what became of it.

    Args:
        watch: told twice a second how it goes.
        interrupted: ends the run early once it is set; what ran then has no record.

    Raises:
        ConfigError: the endpoint, the workload or the key is at fault; nothing has been sent.
        EngineError: the workers could not begin.
        NothingSentError: it was interrupted before they did.
    """
    environment = {**os.environ, **({KEY_VARIABLE: plan.key} if plan.key else {})}
    traffic = plan.workload.traffic.values()
    asked = {(part.model, key_of(part, environment)) for part in traffic}
    dialects = {part.dialect for part in traffic}
    await _unless(interrupted, preflight.check(plan.target, asked, dialects))
    machine = describe({"galerne": __version__})
    traces = await asyncio.to_thread(plan.workload.trace_digests)
    records: list[Record] = []
    problem = None
    shares = _shares(plan, traces)
    async with _coordinating(plan, shares, records.extend) as (coordinator, url, token):
        try:
            with ExitStack() as stack:
                children: list[_Child] = []
                if plan.listen is None:
                    variables = {**environment, TOKEN_VARIABLE: token}
                    children = stack.enter_context(_children(plan.num_workers, url, variables))
                try:
                    await _watched(coordinator, records, children, watch, interrupted)
                finally:
                    ended = time.perf_counter()  # ending the workers takes a while, too
        except WorkerLostError as error:
            if coordinator.begun is None:
                raise EngineError(str(error), code="worker_lost", retryable=True) from error
            # What has been recorded is worth keeping: hours, perhaps.
            problem = str(error)
    begun = ended if coordinator.begun is None else coordinator.begun
    elapsed_s = max(ended - begun, 0.0)
    started_at = datetime.now(UTC) - timedelta(seconds=time.perf_counter() - begun)
    is_whole = problem is None and not interrupted.is_set()
    planned_s = plan.workload.planned_s(plan.rate_scale)
    about = About(
        url=plan.target.url,
        title=plan.title,
        started_at=started_at.isoformat(timespec="milliseconds"),
        # One that was stopped has no more seconds in which requests were due than it took.
        duration_s=planned_s if is_whole else min(planned_s, elapsed_s),
        rate_scale=plan.rate_scale,
        seed=plan.workload.seed,
        workload=plan.workload.model_dump(mode="json", exclude_none=True),
        traces=traces,
        workers=coordinator.figures,
        machine=machine,
        is_whole=is_whole,
        problem=problem,
    )
    return Result(about, frame(records))


async def _unless(interrupted: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """The work is done.

    Raises:
        NothingSentError: it was interrupted first.
    """
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(interrupted.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise NothingSentError
        await working
    finally:
        for each in (working, waiting):
            each.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


async def _watched(
    coordinator: Coordinator,
    records: Sequence[Record],
    children: Sequence[_Child],
    watch: Watch,
    interrupted: asyncio.Event,
) -> None:
    """The workers have ended.

    Raises:
        WorkerLostError: one has gone, or could not begin.
        NothingSentError: the run was interrupted before it began.
    """
    seen = 0
    while not await coordinator.finished(_POLL_S):
        if interrupted.is_set():
            coordinator.stop()
        for child in children:
            if (reason := child.failure()) is not None:
                coordinator.fail(reason)
        news = coordinator.take_news()
        if news and children:
            # Nobody else will come in its place.
            coordinator.fail(news[0])
        begun = coordinator.begun
        elapsed_s = 0.0 if begun is None else max(time.perf_counter() - begun, 0.0)
        recent, seen = records[seen:], len(records)
        watch(
            Moment(
                elapsed_s,
                coordinator.num_sent,
                coordinator.num_in_flight,
                recent,
                coordinator.num_joined,
                news,
            )
        )
        if interrupted.is_set() and begun is None:
            raise NothingSentError


@asynccontextmanager
async def _coordinating(
    plan: Plan, shares: Sequence[Share], on_records: Callable[[Sequence[Record]], None]
) -> AsyncIterator[tuple[Coordinator, str, str]]:
    """A coordinator that listens, its address and its token."""
    listen = plan.listen or Listen("127.0.0.1", 0, secrets.token_urlsafe(32))
    coordinator = Coordinator(shares, listen.token, on_records, is_last=plan.is_last)
    runner = web.AppRunner(coordinator.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, listen.host, listen.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {listen.host}:{listen.port}: {error.strerror}",
                code="cannot_listen",
                param="--listen",
            ) from error
        host, port = runner.addresses[0][:2]
        yield coordinator, f"http://{host}:{port}", listen.token
    finally:
        await runner.cleanup()


def _shares(plan: Plan, traces: dict[str, str]) -> list[Share]:
    ca_file, tokenizer = plan.target.ca_file, plan.tokenizer
    # Prompts of no other run: it would find those in the server's prefix cache.
    salt = secrets.randbits(63)
    return [
        Share(
            worker=worker,
            num_workers=plan.num_workers,
            url=plan.target.url,
            ca_file=None if ca_file is None else str(ca_file),
            workload=plan.workload.model_dump(mode="json"),
            rate_scale=plan.rate_scale,
            salt=salt,
            timeout_s=plan.timeout_s,
            tokenizer=None if tokenizer is None else str(tokenizer),
            traces=traces,
        )
        for worker in range(plan.num_workers)
    ]


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def failure(self) -> str | None:
        """Why it has ended without having been told to, if it has."""
        if not self.process.poll():
            return None
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines()
        return f"a worker ended with {self.process.returncode}: {said[-1] if said else 'silently'}"


@contextmanager
def _children(count: int, url: str, environment: Mapping[str, str]) -> Iterator[list[_Child]]:
    """Worker processes; on exit they have ended."""
    # -P: what lies in the working directory is none of its modules.
    command = [sys.executable, "-P", "-m", "loadtest.generator.worker", url]
    with ExitStack() as stack:
        children: list[_Child] = []
        for _ in range(count):
            log = stack.enter_context(tempfile.TemporaryFile(prefix="galerne-load-"))
            # Ctrl-C is the coordinator's to hear: it has its workers report what they have.
            process = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
            stack.callback(_end, process)
            children.append(_Child(process, log))
        try:
            yield children
        except BaseException:
            # What they still have to say is of no use.
            for child in children:
                child.process.terminate()
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_STOP_TIMEOUT_S)
            return
