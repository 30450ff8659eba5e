"""Waking models that have no replica."""

from __future__ import annotations

import asyncio

from serving.core.types import ModelId
from serving.gateway.alarm import Alarm

MODEL, OTHER = ModelId("m"), ModelId("other")


class Bedroom:
    """Models that get up at the n-th call, and a clock that only counts."""

    def __init__(self, *, wakes_at: int) -> None:
        self.calls: list[ModelId] = []
        self.num_sleeps = 0
        self._wakes_at = wakes_at

    async def wake(self, model: ModelId) -> None:
        self.calls.append(model)

    def is_needed(self, model: ModelId) -> bool:
        return self.calls.count(model) < self._wakes_at

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.num_sleeps += 1
        await asyncio.sleep(0)

    def alarm(self) -> Alarm:
        return Alarm(self.wake, self.is_needed, self.sleep)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_it_rings_until_there_is_a_replica() -> None:
    bedroom = Bedroom(wakes_at=3)
    bedroom.alarm().ring(MODEL)
    await settle()
    assert bedroom.calls == [MODEL] * 3


async def test_many_requests_are_one_call() -> None:
    bedroom = Bedroom(wakes_at=1)
    alarm = bedroom.alarm()
    for _ in range(100):
        alarm.ring(MODEL)
    alarm.ring(OTHER)
    await settle()
    assert sorted(bedroom.calls) == [MODEL, OTHER]


async def test_it_rings_again_for_the_next_sleep() -> None:
    bedroom = Bedroom(wakes_at=1)
    alarm = bedroom.alarm()
    alarm.ring(MODEL)
    await settle()
    bedroom.calls.clear()
    alarm.ring(MODEL)
    await settle()
    assert bedroom.calls == [MODEL]
