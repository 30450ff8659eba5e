"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_OPEN_FILES = 20_000
"""Two connections for each of thousands of streams, in every process on their way."""


def describe(versions: Mapping[str, str]) -> dict[str, Any]:
    """CPU, cores, memory, kernel, Python, time, load, and the version of each subject."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()) or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{pages / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
        "load before": round(os.getloadavg()[0], 2),
        "versions": dict(versions),
    }


def cpu_model(cpuinfo: str) -> str:
    """The name of the first CPU; empty where the kernel gives none.

    >>> cpu_model("processor : 0\\nmodel name\\t: Some CPU @ 2 GHz\\n")
    'Some CPU @ 2 GHz'
    """
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return ""


def allow_many_connections() -> None:
    """This process and those it starts may open as many files as the system lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
