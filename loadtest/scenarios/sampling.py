"""Memory and open files of processes over time. Reads the machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import psutil

from loadtest.accounting import Roles
from loadtest.whole_file import whole_file


@dataclass(slots=True)
class Watched:
    """One process: seconds since the watch began, and what it held then."""

    role: str
    process: psutil.Process
    at_s: list[float] = field(default_factory=list)
    rss_mib: list[float] = field(default_factory=list)
    num_fds: list[int] = field(default_factory=list)
    has_ended: bool = False

    def take(self, at_s: float) -> None:
        """One sample, or the note that there is no such process any more."""
        try:
            with self.process.oneshot():
                rss_mib, num_fds = self.process.memory_info().rss / 2**20, self.process.num_fds()
        except psutil.NoSuchProcess:
            self.has_ended = True
            return
        self.at_s.append(at_s)
        self.rss_mib.append(rss_mib)
        self.num_fds.append(num_fds)


@contextmanager
def watching(roles: Roles, *, period_s: float) -> Iterator[Sequence[Watched]]:
    """Every process that there is now, sampled from a thread until the exit.

    The thread takes a millisecond for tens of processes, from the coordinator of a load test, which
    sends nothing itself.
    """
    watched = [*_found(roles)]
    ends = threading.Event()
    thread = threading.Thread(target=_sample, args=(watched, period_s, ends), daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        ends.set()
        thread.join()


def _found(roles: Roles) -> Iterator[Watched]:
    for role, pids in sorted(roles.items()):
        for pid in sorted(pids):
            if psutil.pid_exists(pid):
                yield Watched(role, psutil.Process(pid))


def _sample(watched: Iterable[Watched], period_s: float, ends: threading.Event) -> None:
    begun = time.monotonic()
    while True:
        at_s = time.monotonic() - begun
        for process in watched:
            if not process.has_ended:
                process.take(at_s)
        if ends.wait(period_s):
            return


def write(watched: Iterable[Watched], path: Path) -> None:
    """Keep every sample as Parquet, in columns role, pid, at_s, rss_mib, num_fds."""
    tables = [
        pl.DataFrame(
            {"at_s": process.at_s, "rss_mib": process.rss_mib, "num_fds": process.num_fds}
        ).select(pl.lit(process.role).alias("role"), pl.lit(process.process.pid).alias("pid"), "*")
        for process in watched
        if process.at_s
    ]
    if tables:
        with whole_file(path) as half:
            pl.concat(tables).write_parquet(half)
