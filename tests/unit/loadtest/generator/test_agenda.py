"""Calls at their times."""

from __future__ import annotations

import asyncio
import time

from loadtest.generator.agenda import Agenda


async def test_calls_after_one_that_fails_are_made_in_order() -> None:
    made: list[int] = []
    errors: list[Exception] = []
    all_made = asyncio.Event()

    def fail() -> None:
        raise LookupError

    agenda = Agenda(errors.append)
    now = time.perf_counter()
    agenda.at(now + 0.02, all_made.set)
    agenda.at(now + 0.01, lambda: made.append(2))
    agenda.at(now, fail)
    agenda.at(now, lambda: made.append(1))
    try:
        await asyncio.wait_for(all_made.wait(), 5)
    finally:
        agenda.close()

    assert made == [1, 2]
    assert [type(error) for error in errors] == [LookupError]
