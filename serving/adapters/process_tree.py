"""The processes below this one, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

from serving.adapters.run_record import process_start_ticks


def descendants(pid: int) -> list[tuple[int, int]]:
    """All processes below `pid`, as (pid, start time in ticks)."""
    found: list[tuple[int, int]] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                ticks = process_start_ticks(child)
                if ticks is not None:
                    found += [(child, ticks), *descendants(child)]
    return found


async def end(processes: list[tuple[int, int]]) -> None:
    """Wait for processes to end by themselves, then kill those left. A recycled pid is spared."""

    def left() -> list[int]:
        return [pid for pid, ticks in processes if process_start_ticks(pid) == ticks]

    deadline = time.monotonic() + 5
    while left() and time.monotonic() < deadline:  # noqa: ASYNC110 (processes raise no event)
        await asyncio.sleep(0.05)
    for pid in left():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
