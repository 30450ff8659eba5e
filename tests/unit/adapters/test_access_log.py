"""One line per request; a log that cannot be written costs lines, never requests."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from serving.adapters.access_log import AccessLog

FIELDS: dict[str, Any] = {"request_id": "r-1", "status": 200, "code": None, "duration_ms": 1.5}
FULL = "No space left on device"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_json_line_per_request(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "gateway.jsonl"
    log = AccessLog(path)
    log.write(FIELDS)
    log.write(FIELDS | {"path": 'a"\n\ud800b'})
    log.wait_until_written()

    first, second = rows(path)
    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "request", **FIELDS}
    assert second["path"] == 'a"\n\ud800b'
    assert log.num_lost == 0
    assert log.problems() == []


def test_folder_and_file_are_private(tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "logs" / "gateway.jsonl")
    log.write(FIELDS)
    log.wait_until_written()
    assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "logs" / "gateway.jsonl").stat().st_mode & 0o777 == 0o600


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "gateway.jsonl"
    for _ in range(2):
        log = AccessLog(path)
        log.write(FIELDS)
        log.wait_until_written()
    assert len(rows(path)) == 2


def test_a_full_disk_loses_lines_counts_them_and_says_so_once(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[int] = []
    log = AccessLog(Path("/dev/full"), on_lost=lost.append)
    for _ in range(3):
        log.write(FIELDS)
        log.wait_until_written()

    assert log.num_lost == sum(lost) == 3
    assert log.problems() == [f"access log: {FULL}, 3 lines lost"]
    assert [record.getMessage() for record in caplog.records] == [
        f"the access log loses lines: {FULL} (/dev/full)"
    ]
    assert capsys.readouterr() == ("", "")


def test_it_goes_on_and_tells_the_gap(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The folder cannot be made at first, as on a disk without inodes."""
    caplog.set_level(logging.INFO)
    folder = tmp_path / "logs"
    folder.write_text("in the way")
    log = AccessLog(folder / "gateway.jsonl")
    for _ in range(2):
        log.write(FIELDS)
    log.wait_until_written()
    assert log.num_lost == 2

    folder.unlink()
    log.write(FIELDS)
    log.wait_until_written()
    assert log.problems() == []
    gap, line = rows(folder / "gateway.jsonl")
    assert (gap["event"], gap["count"]) == ("lines_lost", 2)
    assert line["event"] == "request"
    assert caplog.messages[-1] == "the access log goes on after 2 lost lines"


def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    """A pipe that nobody reads: its opening blocks, as a write to a dead mount does."""
    path = tmp_path / "gateway.jsonl"
    os.mkfifo(path)
    log = AccessLog(path, max_waiting=5)
    begun = time.monotonic()
    for _ in range(50):
        log.write(FIELDS)
    assert time.monotonic() - begun < 1
    assert "the disk does not keep up" in log.problems()[0]
    assert log.num_lost > 30

    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log.wait_until_written()
    assert log.problems() == []
    os.close(reader)


def test_a_field_that_is_not_json_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "gateway.jsonl"
    log = AccessLog(path)
    log.write(FIELDS | {"path": b"bytes", "x": object()})
    log.write(FIELDS)
    log.wait_until_written()
    assert [row["request_id"] for row in rows(path)] == ["r-1", "r-1"]
