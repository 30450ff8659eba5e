"""One line per request; a log that cannot be written costs lines, never requests."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.adapters.access_log import AccessLog

FIELDS: dict[str, Any] = {"request_id": "r-1", "status": 200, "code": None, "duration_ms": 1.5}


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[AccessLog]:
    log = AccessLog(path)
    try:
        yield log
    finally:
        with contextlib.suppress(OSError):  # what /dev/full still holds cannot be flushed
            log._handler.close()  # it lives as long as its process, so it has no close of its own


def test_one_json_line_per_request(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "gateway.jsonl"
    with log_to(path) as log:
        log.write(FIELDS)
        log.write(FIELDS | {"path": 'a"\n\ud800b'})
        assert log.num_lost == 0

    first, second = map(json.loads, path.read_text().splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {"event": "request", **FIELDS}
    assert second["path"] == 'a"\n\ud800b'


def test_the_folder_is_private(tmp_path: Path) -> None:
    with log_to(tmp_path / "logs" / "gateway.jsonl"):
        assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "gateway.jsonl"
    for _ in range(2):
        with log_to(path) as log:
            log.write(FIELDS)
    assert len(path.read_text().splitlines()) == 2


def test_a_full_disk_loses_lines_and_counts_them(capsys: pytest.CaptureFixture[str]) -> None:
    with log_to(Path("/dev/full")) as log:
        for _ in range(3):
            log.write(FIELDS)
        assert log.num_lost == 3

    assert capsys.readouterr() == ("", "")


def test_a_field_that_is_not_json_loses_its_line_only(tmp_path: Path) -> None:
    path = tmp_path / "gateway.jsonl"
    with log_to(path) as log:
        log.write(FIELDS | {"path": b"bytes", "x": object()})
        log.write(FIELDS)
    assert json.loads(path.read_text().splitlines()[-1])["request_id"] == "r-1"
