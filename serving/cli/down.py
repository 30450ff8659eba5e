"""`galerne down`: stop the running platform."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Annotated

import typer

from serving.adapters import control_client, process_tree, ray_cluster
from serving.adapters.run_record import RunRecord, process_start_ticks
from serving.adapters.state_paths import StatePaths
from serving.cli.console import err, progress
from serving.errors import ConfigError
from serving.supervisor import DRAIN_TIMEOUT_S

_STOP_TIMEOUT_S = 60.0
_POLL_S = 0.2


def down(
    drain_timeout: Annotated[
        float,
        typer.Option(min=0, help="Seconds that running requests may take to finish; 0 cuts them."),
    ] = DRAIN_TIMEOUT_S,
) -> None:
    """Stop the platform that `galerne up` started.

    New requests get 503 with `Retry-After` at once; the running ones may finish.
    """
    paths = StatePaths.from_environment()
    record = RunRecord.read(paths)
    if record is None:
        err.print("Galerne is not running")
        _end_leftovers(paths)
        return
    try:
        control_client.ask(paths, "/stop", {"drain_timeout_s": drain_timeout})
    except ConfigError:  # it is only just starting, or already stopping
        _signal(record, signal.SIGTERM)
    with progress("stopping") as tell:
        if not _wait_for_end(record, drain_timeout + _STOP_TIMEOUT_S, lambda: tell(_step(paths))):
            tell("killing")
            _signal(record, signal.SIGKILL)
            _wait_for_end(record, _STOP_TIMEOUT_S, lambda: None)
    _end_leftovers(paths)
    paths.run_file.unlink(missing_ok=True)
    err.print("[green]stopped[/green]")


def _end_leftovers(paths: StatePaths) -> None:
    if num_ended := process_tree.end_leftovers(ray_cluster.run_dir_of(paths)):
        err.print(process_tree.told(num_ended))


def _signal(record: RunRecord, number: signal.Signals) -> None:
    if process_start_ticks(record.pid) == record.started_ticks:
        os.kill(record.pid, number)


def _step(paths: StatePaths) -> str:
    try:
        return str(control_client.ask(paths, "/stop")["step"])
    except ConfigError:
        return "stopping"


def _wait_for_end(record: RunRecord, timeout_s: float, tell: Callable[[], None]) -> bool:
    deadline = time.monotonic() + timeout_s
    while process_start_ticks(record.pid) == record.started_ticks:
        if time.monotonic() > deadline:
            return False
        tell()
        time.sleep(_POLL_S)
    return True
