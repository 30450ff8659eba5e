"""Shares that are given out, lost, and given out again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from loadtest.generator.coordinator import Coordinator, WorkerLostError
from loadtest.generator.link import Link
from loadtest.generator.messages import Orders, Report, Share, Start

SHARE = Share(
    worker=0, num_workers=2, url="http://x", ca_file=None, workload={}, rate_scale=1.0, salt=0,
    timeout_s=1.0, tokenizer=None, traces={},
)  # fmt: skip
SHARES = [SHARE, msgspec.structs.replace(SHARE, worker=1)]
FIGURES = {"host": "h", "cpu_ratio": 0.1, "loop_lag_p99_ms": 0.1}


@dataclass
class Stage:
    """A coordinator of two workers, with time that a test sets."""

    is_last: bool = True
    now_s: float = 0.0
    coordinator: Coordinator = field(init=False)
    _client: Any = None

    async def ask(self, path: str, content: object, answer: type[Any]) -> Any:
        link = Link(self._client.session, str(self._client.make_url("")).rstrip("/"))
        return await link.ask(path, content, answer)

    async def join(self, host: str) -> Share:
        share: Share = await self.ask("/join", host, Share)
        return share

    async def silence(self, duration_s: float) -> None:
        self.now_s += duration_s
        await self.coordinator.finished(0)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self.coordinator = Coordinator(
            SHARES, "token", lambda _: None, is_last=self.is_last, clock=lambda: self.now_s
        )
        headers = {"authorization": "Bearer token"}
        server = TestServer(self.coordinator.application())
        async with TestClient(server, headers=headers) as self._client:
            yield


async def begun(stage: Stage) -> None:
    """Two workers have been told to start."""
    shares = [await stage.join("one"), await stage.join("two")]
    await asyncio.gather(*(stage.ask("/ready", share.member, Start) for share in shares))


async def test_a_silent_workers_share_goes_to_the_next_one() -> None:
    stage = Stage()
    async with stage.open():
        lost = await stage.join("first")
        there = await stage.join("second")
        await stage.silence(10)
        await stage.ask("/alive", there.member, type(None))
        await stage.silence(10)

        assert stage.coordinator.num_joined == 1
        (said,) = stage.coordinator.take_news()
        assert "on first has said nothing for 15 s" in said
        assert stage.coordinator.take_news() == ()
        replacement = await stage.join("third")
        assert replacement.worker == lost.worker
        starts = [stage.ask("/ready", share.member, Start) for share in (there, replacement)]
        await asyncio.gather(*starts)
        with pytest.raises(aiohttp.ClientResponseError, match="410"):
            await stage.ask("/ready", lost.member, Start)


async def test_a_replaced_worker_that_waits_is_not_started() -> None:
    stage = Stage()
    async with stage.open():
        lost = await stage.join("first")
        waiting = asyncio.create_task(stage.ask("/ready", lost.member, Start))
        await asyncio.wait([waiting], timeout=0.05)
        await stage.silence(20)
        await begun(stage)

        with pytest.raises(aiohttp.ClientResponseError, match="410"):
            await waiting


async def test_a_worker_that_is_lost_later_ends_the_run() -> None:
    stage = Stage()
    async with stage.open():
        await begun(stage)
        with pytest.raises(WorkerLostError, match="worker 0 on one has said nothing"):
            await stage.silence(20)


@pytest.mark.parametrize("is_last", [True, False])
async def test_workers_are_told_whether_another_run_follows(is_last: bool) -> None:
    stage = Stage(is_last=is_last)
    async with stage.open():
        await begun(stage)
        report = Report(0, [], 0, 0, figures=FIGURES)
        assert (await stage.ask("/report", report, Orders)).is_over is is_last
        with pytest.raises(aiohttp.ClientResponseError, match="409"):
            await stage.join("one")
        stage.coordinator.stop()
        assert (await stage.ask("/report", report, Orders)).is_over
