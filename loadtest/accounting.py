"""Who used how much CPU and memory, by the role of the process.

The arithmetic is pure; `sample` alone reads the machine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import NamedTuple

import psutil

Roles = Mapping[str, frozenset[int]]
"""Process ids by role: `proxy`, `gateway`, `haproxy`, `engine`, `ray`, …"""


class Usage(NamedTuple):
    """What one process has used so far."""

    cpu_s: float
    rss_bytes: int


class Sample(NamedTuple):
    """All processes of a subject at one moment: `usage[role][pid]`."""

    at_s: float
    usage: Mapping[str, Mapping[int, Usage]]


class Span(NamedTuple):
    """What lies between two samples."""

    took_s: float
    cpu_s: Mapping[str, float]

    def cores(self, role: str) -> float:
        """Cores kept busy, on average."""
        return self.cpu_s.get(role, 0.0) / self.took_s


def sample(roles: Roles) -> Sample:
    """What every process has used up to now; those that have ended are left out."""
    usage = {role: {pid: u for pid in pids if (u := _usage(pid))} for role, pids in roles.items()}
    return Sample(time.monotonic(), usage)


def between(before: Sample, after: Sample) -> Span:
    """CPU seconds by role. A process that began in between counts whole; one that ended, not at
    all, since what it used is gone with it.

    >>> first = Sample(0.0, {"proxy": {1: Usage(2.0, 0)}})
    >>> between(first, Sample(4.0, {"proxy": {1: Usage(3.0, 0), 2: Usage(0.5, 0)}})).cpu_s
    {'proxy': 1.5}
    """
    cpu_s = {}
    for role, processes in after.usage.items():
        old = before.usage.get(role, {})
        cpu_s[role] = sum(
            now.cpu_s - (old[pid].cpu_s if pid in old else 0.0) for pid, now in processes.items()
        )
    return Span(after.at_s - before.at_s, cpu_s)


def microseconds_per(count: int, cpu_s: float) -> float:
    """CPU µs for each of `count` events; infinite if there were none.

    >>> microseconds_per(1000, 0.05)
    50.0
    """
    return cpu_s * 1e6 / count if count else float("inf")


def rss_mib(taken: Sample, roles: frozenset[str]) -> float:
    """Resident memory of these roles' processes, in MiB. Pages they share count for each."""
    processes = [u for role in roles for u in taken.usage.get(role, {}).values()]
    return sum(usage.rss_bytes for usage in processes) / 2**20


def family(pid: int) -> frozenset[int]:
    """`pid` and all that descend from it."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return frozenset()
    return frozenset({pid, *(child.pid for child in children)})


def _usage(pid: int) -> Usage | None:
    with contextlib.suppress(OSError, psutil.Error):
        # The process's own CPU clock, in ns: psutil's times come in steps of 10 ms, which is what
        # a relay spends on hundreds of chunks. Source: clock_getcpuclockid(3), CPUCLOCK_SCHED.
        cpu_s = time.clock_gettime((~pid << 3) | 2)
        return Usage(cpu_s, psutil.Process(pid).memory_info().rss)
    return None
