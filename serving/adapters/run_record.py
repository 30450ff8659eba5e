"""What a running platform leaves for the other commands: one small file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.adapters.secrets_file import replace_private_file
from serving.adapters.state_paths import StatePaths


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The supervising process of a running platform.

    `started_ticks` is its start time in the kernel's clock ticks, so that a recycled pid is not
    mistaken for it. `ready` tells whether every replica has been up.
    """

    pid: int
    started_ticks: int
    endpoint: str
    control_url: str
    ready: bool

    @classmethod
    def read(cls, paths: StatePaths) -> RunRecord | None:
        """The record of a platform that is alive, else `None`."""
        try:
            record = cls(**json.loads(paths.run_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        started = process_start_ticks(record.pid)
        return record if started is not None and started == record.started_ticks else None

    def write(self, paths: StatePaths) -> None:
        """Publish the record."""
        replace_private_file(paths.run_file, json.dumps(asdict(self)).encode())


def process_start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; `None` if there is none or it has ended.

    Source: proc_pid_stat(5), fields 3 (state) and 22 (starttime).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def own_record(*, endpoint: str, control_url: str, ready: bool) -> RunRecord:
    """The record of this process."""
    ticks = process_start_ticks(os.getpid())
    return RunRecord(os.getpid(), ticks or 0, endpoint, control_url, ready)
