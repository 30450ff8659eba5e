"""Records as a frame, and back from their file."""

from array import array
from pathlib import Path

import pytest

from loadtest.records import SCHEMA, Record, frame, read, write


def record(session: int, *, due_s: float, gaps: tuple[float, ...] = ()) -> Record:
    packed = array("f", gaps).tobytes()
    return Record(session, 0, "chat", "demo", True, due_s, 0.0, 3, itl_s=packed)


def test_rows_are_in_the_order_in_which_they_were_due() -> None:
    made = frame([record(1, due_s=2.0), record(0, due_s=1.0)])

    assert made["session"].to_list() == [0, 1]
    assert dict(made.schema) == SCHEMA


def test_gaps_are_unpacked(tmp_path: Path) -> None:
    write(frame([record(0, due_s=0.0, gaps=(0.25, 0.5)), record(1, due_s=1.0)]), tmp_path)

    assert read(tmp_path)["itl_s"].to_list() == [pytest.approx([0.25, 0.5]), []]


def test_no_records_have_the_same_columns() -> None:
    assert dict(frame([]).schema) == SCHEMA
