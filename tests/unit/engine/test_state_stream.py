"""What a gateway knows after any sequence of frames is what the replica has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from serving.engine import state_stream
from serving.engine.state_stream import StateStream
from serving.protocol.state_frames import (
    CacheLayout,
    FrameError,
    FrameReader,
    LoadReport,
    StateFrame,
    encode_frame,
    unpack_names,
)
from serving.routing.block_namer import CacheChange

IDLE = LoadReport(0, 0, 0, 0.0, 0, 0, draining=False)
LAYOUT = CacheLayout(block_size=16, total_blocks=100, window_blocks=(None,))


class Replica:
    """A cache of names that changes at random, and the load beside it."""

    def __init__(self) -> None:
        self.held: dict[int, None] = {}
        self.report = IDLE
        self._change = CacheChange({}, {})
        self.stream = StateStream(
            LAYOUT,
            report=lambda: self.report,
            changes=self.take_change,
            cached=lambda: {0: [*self.held]},
            rng=Random(0),
        )

    def take_change(self) -> CacheChange:
        change, self._change = self._change, CacheChange({}, {})
        return change

    def churn(self, rng: Random) -> None:
        if rng.random() < 0.05:
            self.held = {7: None}
            self._change = CacheChange({0: [7]}, {}, is_cleared=True)
            return
        stored = [name for name in rng.sample(range(50), 5) if name not in self.held]
        removed = [name for name in self.held if rng.random() < 0.1]
        self.held.update(dict.fromkeys(stored))
        for name in removed:
            del self.held[name]
        self._change = CacheChange({0: stored} if stored else {}, {0: removed} if removed else {})


class Listener:
    """A gateway's side of one stream."""

    def __init__(self, replica: Replica) -> None:
        self.frames: list[StateFrame] = []
        self.held: set[int] = set()
        self.on_read: Callable[[], None] = lambda: None
        self.can_read = asyncio.Event()
        self.can_read.set()
        self._reader = FrameReader()
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(replica.stream.serve(self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.can_read.wait()
        self.on_read()
        for frame in self._reader.feed(message.get("body", b"")):
            self.frames.append(frame)
            if frame.is_snapshot:
                self.held.clear()
            self.held.update(unpack_names(frame.stored.get(0, b"")))
            self.held.difference_update(unpack_names(frame.removed.get(0, b"")))

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(5))
async def test_every_gateway_ends_up_with_what_the_replica_has(seed: int) -> None:
    rng = Random(seed)
    replica = Replica()
    first = Listener(replica)
    await settle()
    late: Listener | None = None
    for now in range(300):
        replica.churn(rng)
        replica.stream.tell(float(now))
        if now == 100:
            late = Listener(replica)
        if now % 7 == 0:
            await settle()
    await settle()
    assert late is not None
    assert first.held == late.held == set(replica.held)
    await asyncio.gather(first.leave(), late.leave())


async def test_a_slow_gateway_gets_a_snapshot_and_holds_nobody_up() -> None:
    rng = Random(0)
    replica = Replica()
    slow, quick = Listener(replica), Listener(replica)
    await settle()
    slow.can_read.clear()
    for now in range(1000):
        replica.churn(rng)
        replica.stream.tell(float(now))
        await settle()
    assert quick.held == set(replica.held)
    slow.can_read.set()
    await settle()
    assert slow.held == set(replica.held)
    assert len(slow.frames) <= state_stream._MAX_BEHIND + 2
    await asyncio.gather(slow.leave(), quick.leave())


async def test_no_gateway_is_always_told_first() -> None:
    """Whoever hears of room first has it."""
    replica, told = Replica(), list[int]()
    listeners = [Listener(replica) for _ in range(4)]
    await settle()
    for number, listener in enumerate(listeners):
        listener.on_read = lambda number=number: told.append(number)
    first = set()
    for now in range(50):
        told.clear()
        replica.stream.tell(float(now))
        await settle()
        first.add(told[0])
    assert first == {0, 1, 2, 3}
    await asyncio.gather(*(listener.leave() for listener in listeners))


async def test_frames_are_numbered_without_a_gap() -> None:
    replica = Replica()
    listener = Listener(replica)
    await settle()
    for now in range(20):
        replica.stream.tell(float(now))
        await settle()
    numbers = [frame.seq for frame in listener.frames]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert listener.frames[0].is_snapshot
    assert not any(frame.is_snapshot for frame in listener.frames[1:])
    await listener.leave()


async def test_nothing_new_is_told_only_as_a_sign_of_life() -> None:
    replica = Replica()
    listener = Listener(replica)
    await settle()
    for tick in range(100):
        replica.stream.tell(tick * 0.05)
    await settle()
    assert 9 <= len(listener.frames) <= 11  # 5 s, two a second
    replica.report = LoadReport(3, 1, 500, 1000.0, 9, 4, draining=True, adapters=("sql",))
    replica.stream.tell(5.01)
    await settle()
    assert listener.frames[-1].report == replica.report
    await listener.leave()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda wire: b"\xff" + wire,
        lambda wire: wire[:4] + b"\xc1" + wire[5:],
        lambda wire: b"\x00\x00\x00\x01\x01",
    ],
    ids=["length", "msgpack", "type"],
)
def test_bytes_that_are_no_frames_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(FrameError):
        list(FrameReader().feed(spoil(encode_frame(StateFrame(1, LAYOUT, IDLE)))))
