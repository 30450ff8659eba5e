"""One process that sends: `python -m loadtest.generator.worker http://COORDINATOR`.

It asks the coordinator what to send, sends it when all workers are told to begin, and reports twice
a second. Without a coordinator there is nobody to send for: it ends. `galerne load worker` waits a
minute for one, and joins run after run.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
import uvloop

from loadtest.generator.connection import Connections
from loadtest.generator.dialects import WIRES
from loadtest.generator.keys import key_of
from loadtest.generator.link import Link, Patience, join, linked
from loadtest.generator.messages import TOKEN_VARIABLE, Orders, Report, Share, Start
from loadtest.generator.sender import Limits, Sender
from loadtest.generator.target import Composer, Target
from loadtest.generator.wire import Wording
from loadtest.generator.worker_failure import to_failure
from loadtest.machine import allow_many_connections
from loadtest.workload.prompts import SIMULATED, Prompts, words_of
from loadtest.workload.request import Session, Turn
from loadtest.workload.spec import Workload
from serving.errors import ServingError

_REPORT_S = 0.5
_PATIENCE_S = 60.0
"""How long a coordinator may be away: started later than its workers, or between two runs."""
_REPLACED = 410
_YOUNGEST_GENERATION = 50_000
"""Objects between collections: a collection's pause would be in every figure."""


async def work(link: Link, share: Share) -> bool:
    """Send one share of a workload; whether another run may follow.

    Raises:
        aiohttp.ClientError: the coordinator has gone.
        ServingError: the share cannot be sent from here, which the coordinator has been told.
    """
    try:
        return await _work(link, share)
    except aiohttp.ClientError:
        raise
    except (OSError, ServingError) as error:
        failure = to_failure(error)
        report = Report(share.worker, [], 0, 0, error=failure.message)
        with suppress(aiohttp.ClientError):  # it has gone as well: what came first is told
            await link.ask("/report", report, Orders)
        raise failure from error


async def _work(link: Link, share: Share) -> bool:
    async with link.alive(share.member):
        sender = (await asyncio.to_thread(_prepared, share))()
        try:
            start = await link.ask("/ready", share.member, Start)
        except aiohttp.ClientResponseError as error:
            if error.status == _REPLACED:
                return True
            raise
    return not (await _send(sender, link, share.worker, start)).is_over


async def _work_once(url: str, token: str) -> None:
    async with linked(url, token) as link:
        await work(link, await join(link.ask, Patience(limit_s=0)))


async def _work_on(url: str, token: str) -> None:
    """Runs have been worked for until there are no more."""
    may_follow, has_worked = True, False
    while may_follow:
        async with linked(url, token) as link:
            try:
                share = await join(link.ask, Patience(_PATIENCE_S))
            except aiohttp.ClientConnectionError:
                if has_worked:
                    return
                raise
            may_follow, has_worked = await work(link, share), True


async def _send(sender: Sender, link: Link, worker: int, start: Start) -> Orders:
    gc.freeze()
    called, cpu_s = time.perf_counter(), time.process_time()
    begun = called + start.in_s
    sending = asyncio.create_task(sender.run(begun))
    try:
        while not sending.done():
            await asyncio.wait([sending], timeout=_REPORT_S)
            report = Report(worker, sender.take_records(), sender.num_in_flight, sender.num_sent)
            if (await link.ask("/report", report, Orders)).stop:
                sender.stop()
    finally:
        sender.stop()
        await sending
        gc.unfreeze()
    figures = {
        "host": platform.node(),
        "cpu_ratio": (time.process_time() - cpu_s) / max(time.perf_counter() - called, 1e-9),
        "loop_lag_p99_ms": float(np.quantile(sender.loop_lags_s, 0.99)) * 1000,
    }
    last = Report(worker, sender.take_records(), 0, sender.num_sent, figures)
    return await link.ask("/report", last, Orders)


def _prepared(share: Share) -> Callable[[], Sender]:
    """What makes a share's sender; the tokenizer has been read, so that nothing slow is left."""
    workload = Workload.model_validate(share.workload)
    workload.check_traces(share.traces)
    words = words_of(Path(share.tokenizer)) if share.tokenizer else SIMULATED
    target = Target(share.url, Path(share.ca_file) if share.ca_file else None)
    composers = {
        name: Composer.make(
            target,
            WIRES[traffic.dialect],
            Wording(traffic.model, traffic.stream, traffic.ignore_eos, traffic.temperature),
            key_of(traffic),
        )
        for name, traffic in workload.traffic.items()
    }
    return partial(
        Sender,
        _own(workload, share),
        composers,
        Connections(target.url, target.tls),
        prompt=partial(_text, Prompts(words, salt=share.salt)),
        limits=Limits(share.timeout_s, workload.duration_s),
    )


def _text(prompts: Prompts, turn: Turn) -> bytes:
    return prompts.text(turn.blocks, turn.prompt_tokens)


def _own(workload: Workload, share: Share) -> Iterator[Session]:
    sessions = workload.sessions(share.rate_scale)
    return (s for s in sessions if s.index % share.num_workers == share.worker)


def run_worker(url: str, token: str) -> None:
    """Work for the coordinator at this address, run after run, until it has no more.

    Raises:
        EngineError: there is none, it refuses, or it has gone in the middle of a run; or this
            process cannot send, for want of file descriptors for one.
        ConfigError: what it needs for its share, a trace or a key, is not here.
    """
    _run(_work_on(url, token))


def _run(working: Coroutine[None, None, None]) -> None:
    allow_many_connections()
    gc.set_threshold(_YOUNGEST_GENERATION)
    try:
        uvloop.run(working)
    except (aiohttp.ClientError, msgspec.DecodeError, OSError) as error:
        raise to_failure(error) from error


if __name__ == "__main__":
    try:
        _run(_work_once(sys.argv[1], os.environ[TOKEN_VARIABLE]))
    except ServingError as failure:
        sys.exit(failure.message)
