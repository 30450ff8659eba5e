"""What a killed platform has left is found by its run folder, and nobody else is touched."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.adapters.process_tree import end_leftovers, leftovers

Start = Callable[[str, str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process with one environment variable that waits for the end of its input."""
    with contextlib.ExitStack() as started:

        def start_one(name: str, value: str) -> subprocess.Popen[bytes]:
            # It tells when it has its own environment, and not its parent's from before exec.
            process = subprocess.Popen(
                [sys.executable, "-c", "print(flush=True); input()"],
                env={name: value},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            started.enter_context(process)
            started.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            return process

        yield start_one


@pytest.mark.parametrize("suffix", ["", "/admin.sock"])
def test_processes_of_the_run_folder_are_ended(tmp_path: Path, start: Start, suffix: str) -> None:
    run_dir = tmp_path / "galerne-1"
    left = [start("RAY_SERVE_HAPROXY_SOCKET_PATH", f"{run_dir}{suffix}") for _ in range(2)]

    assert {pid for pid, _ in leftovers(run_dir)} == {process.pid for process in left}
    assert end_leftovers(run_dir) == 2
    assert all(process.wait(timeout=5) == -9 for process in left)
    assert end_leftovers(run_dir) == 0


@pytest.mark.parametrize(("mode", "is_found"), [("w", True), ("r", False)])
def test_who_writes_into_the_run_folder_belongs_to_it(
    tmp_path: Path, mode: str, is_found: bool
) -> None:
    """A title may have overwritten the whole environment; somebody may be reading a log."""
    run_dir = tmp_path / "galerne-1"
    run_dir.mkdir()
    (run_dir / "agent.log").touch()
    with (run_dir / "agent.log").open(mode) as log:
        stream = {"stderr": log} if mode == "w" else {"stdin": log}
        process = subprocess.Popen(["sleep", "60"], env={}, **stream)
    try:
        assert [pid for pid, _ in leftovers(run_dir)] == [process.pid] * is_found
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAY_SERVE_HAPROXY_SOCKET_PATH", "{}2/admin.sock"),
        ("RAY_SERVE_HAPROXY_SOCKET_PATH", "/tmp{}/admin.sock"),
        ("PWD", "{}/ray"),
        ("GALERNE_STATE_DIR", "{}"),
    ],
)
def test_others_are_left_alone(tmp_path: Path, start: Start, name: str, value: str) -> None:
    run_dir = tmp_path / "galerne-1"
    other = start(name, value.format(run_dir))

    assert end_leftovers(run_dir) == 0
    assert other.poll() is None
