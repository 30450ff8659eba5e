"""Result files on a disk that is full, and when somebody stops their writing."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from loadtest.about import About
from loadtest.generator.run import Result
from loadtest.records import SCHEMA, write
from loadtest.report.files import write_capacity, write_picture
from loadtest.report.style import Plot, figure
from loadtest.verdict.capacity import CapacitySearch
from loadtest.verdict.summarize import summarize
from loadtest.whole_file import whole_file
from serving.cli.load_run import Outcome
from serving.errors import EngineError

OLD = b"what was there before"
ROOM_BYTES = 100
ABOUT = About(url="http://x", title="t", started_at="", duration_s=1.0, seed=0, workload={})
NO_RECORDS = pl.DataFrame(schema=SCHEMA)


@contextmanager
def little_room() -> Iterator[None]:
    """No file may have more than `ROOM_BYTES`: what is beyond them is refused as by a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_written_takes_its_name(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_bytes(OLD)
    with whole_file(tmp_path / "page.html") as path:
        path.write_bytes(b"new")
        assert path.suffix == ".html"
        assert (tmp_path / "page.html").read_bytes() == OLD

    assert content(tmp_path) == {"page.html": b"new"}


def write_half(page: Path, error: BaseException) -> None:
    with whole_file(page) as path:
        path.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [{}, {"page.html": OLD}])
def test_half_a_file_is_none(
    tmp_path: Path, before: dict[str, bytes], error: BaseException
) -> None:
    for name, old in before.items():
        (tmp_path / name).write_bytes(old)
    with pytest.raises(type(error)):
        write_half(tmp_path / "page.html", error)

    assert content(tmp_path) == before


def test_a_folder_that_is_gone_is_told_as_that(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.touch()
    with pytest.raises(NotADirectoryError), whole_file(folder / "page.html") as path:
        path.write_bytes(b"")


def picture(folder: Path) -> None:
    drawn = figure(2.0)
    drawn.subplots().plot([0, 1], [0, 1])
    write_picture(folder, Plot("line", "A line", "", "", drawn))


def page(folder: Path) -> None:
    write_capacity(folder, CapacitySearch(1.0, 2.0).result(), title="t")


def figures(folder: Path) -> None:
    summary = summarize(NO_RECORDS, duration_s=1.0, slo=None, workers=())
    Outcome(Result(ABOUT, NO_RECORDS), summary).write_figures(folder)


@pytest.mark.parametrize(
    ("writes", "name"),
    [
        (ABOUT.write, "run.json"),
        (lambda folder: write(NO_RECORDS, folder), "records.parquet"),
        (picture, "line.png"),
        (page, "capacity.html"),
    ],
)
@pytest.mark.parametrize("has_old", [True, False])
def test_no_result_is_there_in_part(
    tmp_path: Path, writes: Callable[[Path], object], name: str, *, has_old: bool
) -> None:
    if has_old:
        (tmp_path / name).write_bytes(OLD)
    with little_room(), pytest.raises((OSError, pl.exceptions.PolarsError)):
        writes(tmp_path)

    assert content(tmp_path) == ({name: OLD} if has_old else {})
    writes(tmp_path)
    assert content(tmp_path)[name] != OLD


def test_a_disk_that_is_full_is_told_in_one_line(tmp_path: Path) -> None:
    with little_room(), pytest.raises(EngineError, match=f"cannot write results to {tmp_path}: "):
        figures(tmp_path)

    assert content(tmp_path) == {}
