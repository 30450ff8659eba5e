"""The processes of a platform, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

from serving.adapters.run_record import process_start_ticks

_END_S = 10.0
_RUN_DIR_VARIABLES = b"RAY_SERVE_HAPROXY_"
"""Variables of this prefix name the run folder in every process of a local cluster, and in nobody
else's: a shell that stands in the folder has only its `PWD`. Ray's and vLLM's processes write their
titles over a part of what /proc shows of their environment, now and then over all of it, so that no
single one can be relied on."""


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


def leftovers(run_dir: Path) -> list[tuple[int, int]]:
    """Processes of a platform with this run folder, as (pid, start time in ticks).

    Finds those that have lost their parents, too: what a supervisor that was killed has left.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        ticks = process_start_ticks(int(folder.name))
        belongs = _names(folder, os.fsencode(run_dir)) or _writes_into(folder, run_dir)
        if ticks is not None and belongs:
            found.append((int(folder.name), ticks))
    return found


def _writes_into(process: Path, run_dir: Path) -> bool:
    """Whether it has a file of the run folder open for writing: who reads a log does not."""
    try:
        open_files = list((process / "fd").iterdir())
    except OSError:
        return False
    for file in open_files:
        with contextlib.suppress(OSError):
            if run_dir in file.readlink().parents:
                told = (process / "fdinfo" / file.name).read_text().splitlines()
                flags = next(line for line in told if line.startswith("flags:"))
                if int(flags.split()[1], 8) & (os.O_WRONLY | os.O_RDWR):
                    return True
    return False


def _names(process: Path, run_dir: bytes) -> bool:
    try:
        environment = (process / "environ").read_bytes()
    except OSError:  # it has ended, or is another user's
        return False
    return any(
        name.startswith(_RUN_DIR_VARIABLES)
        and (value == run_dir or value.startswith(run_dir + b"/"))
        for name, _, value in (entry.partition(b"=") for entry in environment.split(b"\0"))
    )


def end_leftovers(run_dir: Path) -> int:
    """Kill what is left of a platform whose supervisor is gone; how many processes there were.

    At once: without a supervisor they serve nobody, or hold a port on its behalf.
    """
    ended: set[tuple[int, int]] = set()
    deadline = time.monotonic() + _END_S
    while (found := leftovers(run_dir)) and time.monotonic() < deadline:
        ended.update(found)
        for pid, ticks in found:
            if process_start_ticks(pid) == ticks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return len(ended)


def told(num_ended: int) -> str:
    """What to say of `end_leftovers`.

    >>> told(1)
    'ended 1 process that a killed run had left'
    """
    return f"ended {num_ended} process{'es' * (num_ended > 1)} that a killed run had left"
