"""A record names a living process, or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from serving.adapters.run_record import RunRecord, own_record, process_start_ticks
from serving.adapters.state_paths import StatePaths


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.of(tmp_path, tmp_path / "cache")


@pytest.fixture
def own() -> RunRecord:
    return own_record(endpoint="http://e", control_url="http://s", ready=True)


def test_the_record_of_a_living_process_is_read_back(paths: StatePaths, own: RunRecord) -> None:
    own.write(paths)

    assert RunRecord.read(paths) == own
    assert own.pid == os.getpid()
    assert paths.run_file.stat().st_mode & 0o777 == 0o600


def test_there_is_none_before_the_first_run(paths: StatePaths) -> None:
    assert RunRecord.read(paths) is None


def test_a_recycled_pid_is_another_process(paths: StatePaths, own: RunRecord) -> None:
    replace(own, started_ticks=own.started_ticks - 1).write(paths)
    assert RunRecord.read(paths) is None


def test_a_process_that_ended_is_gone(paths: StatePaths, own: RunRecord) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        ticks = process_start_ticks(child.pid)
        assert ticks is not None
        replace(own, pid=child.pid, started_ticks=ticks).write(paths)
        assert RunRecord.read(paths) is not None
        child.kill()
        # Until it is waited for it is a zombie, which serves nobody.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_start_ticks(child.pid) is None
        assert RunRecord.read(paths) is None
    assert RunRecord.read(paths) is None


def test_a_name_with_parentheses_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) Z (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as child:
        try:
            assert isinstance(process_start_ticks(child.pid), int)
        finally:
            child.kill()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "1", "null", "{}", '{"pid": 1}', '{"pid": 1, "surprise": 2}', "\ud800"],
)
def test_a_broken_file_is_no_record(paths: StatePaths, content: str) -> None:
    paths.run_file.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert RunRecord.read(paths) is None


@pytest.mark.parametrize("pid", ["self", None, -1, 2**40])
def test_a_record_without_a_process_is_no_record(
    paths: StatePaths, own: RunRecord, pid: object
) -> None:
    fields = {"pid": pid, "started_ticks": None, "endpoint": "", "control_url": "", "ready": True}
    paths.run_file.write_text(json.dumps(fields))
    assert RunRecord.read(paths) is None
