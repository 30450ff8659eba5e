"""Starting servers in sessions of their own, waiting for them, and stopping all they started."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import psutil

from serving.adapters.local_ports import HeldPorts

_STOP_TIMEOUT_S = 30.0
_LOG_TAIL_LINES = 15
_held = HeldPorts()
atexit.register(_held.release)


class StartError(RuntimeError):
    """A server did not come up; the message holds the end of its log."""


class Child:
    """A running server and the file it writes its output to."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self.process.pid

    def failure(self, what: str) -> StartError:
        """An error that says `what` and what the server said last."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return StartError("\n".join([what, *lines]))


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[Child]:
    """The command, in a session of its own; on exit it and all its descendants have ended."""
    with tempfile.NamedTemporaryFile(prefix="galerne-bench-", suffix=".log") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, **(environment or {})},
        )  # fmt: skip
        try:
            yield Child(process, Path(log.name))
        finally:
            stop(process, stop_signal)


def stop(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    """Ask the process to end, then kill what is left of it and its descendants."""
    # psutil compares start times, so a recycled process id is never signalled.
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
        _, left = psutil.wait_procs(family, timeout=3)
        for survivor in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(left, timeout=5)
    if process.poll() is None:
        process.kill()
    process.wait()


def free_ports(count: int) -> list[int]:
    """Different TCP ports of the loopback address, kept from everybody who asks for any port."""
    return [_held.hold("127.0.0.1", 0) for _ in range(count)]


def free_port() -> int:
    """A TCP port of the loopback address, kept from everybody who asks for any port."""
    return free_ports(1)[0]


def wait_until_up(child: Child, url: str, *, timeout_s: float) -> None:
    """Return when a GET of `url` answers 200.

    Raises:
        StartError: the server has ended, or does not answer in `timeout_s`.
    """
    asyncio.run(_wait(child, url, timeout_s))


async def _wait(child: Child, url: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while time.monotonic() < deadline:
            if child.process.poll() is not None:
                raise child.failure(f"it ended with code {child.process.returncode}")
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.2)
    raise child.failure(f"{url} did not answer in {timeout_s:.0f} s")
