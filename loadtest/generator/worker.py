"""One process that sends: `python -m loadtest.generator.worker http://COORDINATOR`.

It asks the coordinator what to send, sends it when all workers are told to begin, and reports twice
a second. Without a coordinator there is nobody to send for: it ends.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import numpy as np
import uvloop

from loadtest.generator.connection import Connections
from loadtest.generator.dialects import WIRES
from loadtest.generator.keys import key_of
from loadtest.generator.messages import TOKEN_VARIABLE, Orders, Report, Share, Start
from loadtest.generator.sender import Limits, Sender
from loadtest.generator.target import Composer, Target
from loadtest.generator.wire import Wording
from loadtest.machine import allow_many_connections
from loadtest.workload.prompts import SIMULATED, Prompts, words_of
from loadtest.workload.request import Session, Turn
from loadtest.workload.spec import Workload
from serving.errors import EngineError, ServingError

_REPORT_S = 0.5
_NEVER = aiohttp.ClientTimeout(total=None, sock_connect=10)
_YOUNGEST_GENERATION = 50_000
"""Objects between collections: a collection's pause would be in every figure."""

_T = TypeVar("_T")


class _Coordinator:
    """What the worker knows of it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def ask(self, path: str, content: object, answer: type[_T]) -> _T:
        body = msgspec.msgpack.encode(content)
        async with self._session.post(self._url + path, data=body) as response:
            response.raise_for_status()
            return msgspec.msgpack.decode(await response.read(), type=answer)


async def work(url: str, token: str) -> None:
    """Send one share of a workload.

    Raises:
        aiohttp.ClientError: the coordinator has gone.
    """
    headers = {"authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(headers=headers, timeout=_NEVER) as session:
        coordinator = _Coordinator(session, url)
        share = await coordinator.ask("/join", platform.node(), Share)
        try:
            sender = _sender(share)
        except ServingError as error:
            report = Report(share.worker, [], 0, 0, error=error.message)
            await coordinator.ask("/report", report, Orders)
            return
        start = await coordinator.ask("/ready", share.worker, Start)
        await _send(sender, coordinator, share.worker, start)


async def _send(sender: Sender, coordinator: _Coordinator, worker: int, start: Start) -> None:
    gc.freeze()
    begun = time.perf_counter() + start.in_s
    cpu_s = time.process_time()
    sending = asyncio.create_task(sender.run(begun))
    try:
        while not sending.done():
            await asyncio.wait([sending], timeout=_REPORT_S)
            report = Report(worker, sender.take_records(), sender.num_in_flight, sender.num_sent)
            if (await coordinator.ask("/report", report, Orders)).stop:
                sender.stop()
    finally:
        sender.stop()
        await sending
    figures = {
        "host": platform.node(),
        "cpu_ratio": (time.process_time() - cpu_s) / max(time.perf_counter() - begun, 1e-9),
        "loop_lag_p99_ms": float(np.quantile(sender.loop_lags_s, 0.99)) * 1000,
    }
    last = Report(worker, sender.take_records(), 0, sender.num_sent, figures)
    await coordinator.ask("/report", last, Orders)


def _sender(share: Share) -> Sender:
    """What sends a share; reads the trace and the tokenizer, so that nothing slow is left."""
    workload = Workload.model_validate(share.workload)
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
    return Sender(
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
    """Work for the coordinator at this address until there is no more to send.

    Raises:
        EngineError: there is none, or it has gone.
    """
    allow_many_connections()
    gc.set_threshold(_YOUNGEST_GENERATION)
    try:
        uvloop.run(work(url, token))
    except (aiohttp.ClientError, OSError) as error:
        raise EngineError(
            f"the coordinator of this load test cannot be reached: {error}",
            code="coordinator_lost",
            retryable=True,
        ) from error


if __name__ == "__main__":
    try:
        run_worker(sys.argv[1], os.environ[TOKEN_VARIABLE])
    except ServingError as failure:
        sys.exit(failure.message)
