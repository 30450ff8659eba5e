"""Reports of runs, ordinary and odd, with all their pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from made_up_run import made_up_about, made_up_records, run_of
from page_elements import Elements, assert_is_sound

from loadtest.records import SCHEMA, Record, frame
from loadtest.report.files import write_report
from loadtest.report.html import render
from loadtest.report.plots import plots
from loadtest.verdict.measures import measured

HOSTILE = '<script>alert("$x$")</script> & 日本 _'


def record(index: int, **known: object) -> Record:
    made = Record(index, 0, "chat", "demo", True, float(index), 0.001, 3)
    for name, value in known.items():
        setattr(made, name, value)
    return made


def done(index: int, **known: object) -> Record:
    usual = {"ttft_s": 0.1, "latency_s": 0.5, "output_tokens": 9, "status": 200}
    return record(index, **(usual | known))


def huge_outliers() -> pl.DataFrame:
    tiny, huge = {"latency_s": 1e-5, "ttft_s": 1e-6}, {"latency_s": 1e7, "ttft_s": 1e7}
    return frame(done(i, **(huge if i == 5 else tiny)) for i in range(40))


def not_numbers() -> pl.DataFrame:
    nan, inf = float("nan"), float("inf")
    return frame(done(i, ttft_s=nan, latency_s=inf, send_lag_s=nan) for i in range(9))


def nulls() -> pl.DataFrame:
    rows = frame(done(i, latency_s=None, output_tokens=None) for i in range(9))
    return rows.with_columns(
        itl_s=pl.lit(None, SCHEMA["itl_s"]), send_lag_s=pl.lit(None, pl.Float64)
    )


def hostile_names() -> pl.DataFrame:
    return frame(
        [done(i, traffic=f"{HOSTILE}{i}") for i in range(12)]
        + [record(i, error=f"_{HOSTILE}{i}", traffic="_a", latency_s=1.0) for i in range(12)]
    )


ODD_RUNS: dict[str, Callable[[], pl.DataFrame]] = {
    "nothing at all": lambda: frame([]),
    "one request": lambda: frame([done(0)]),
    "none completed": lambda: frame(record(i, error="timeout", latency_s=0.1) for i in range(9)),
    "no streams": lambda: frame(done(i, ttft_s=None, is_stream=False) for i in range(9)),
    "cancelled only": lambda: frame(record(i, cancelled=True, latency_s=0.2) for i in range(9)),
    "all alike": lambda: frame(done(i, due_s=0.0) for i in range(30)),
    "no time at all": lambda: frame(done(i, ttft_s=0.0, latency_s=0.0) for i in range(9)),
    "huge outliers": huge_outliers,
    "nulls": nulls,
    "hostile names": hostile_names,
}


def page_of(records: pl.DataFrame, *, title: str) -> str:
    run = run_of(records, made_up_about(title=title))
    return render(run, plots(run))


@pytest.mark.parametrize("run", ODD_RUNS)
def test_a_run_of_any_kind_has_a_report(run: str) -> None:
    page = page_of(ODD_RUNS[run](), title=HOSTILE)

    assert_is_sound(page)
    assert HOSTILE not in page
    assert HOSTILE in Elements(page).text


def test_what_is_no_number_is_not_drawn() -> None:
    run = run_of(frame(done(i) for i in range(9)))

    assert_is_sound(render(run, plots(replace(run, requests=measured(not_numbers(), None)))))


def test_pictures_follow_the_colours_of_the_page() -> None:
    svg = "".join(re.findall(r"<svg .*?</svg>", page_of(hostile_names(), title="x"), re.DOTALL))

    assert "var(--ink)" in svg
    assert "var(--rule)" in svg


def test_page_and_pictures_are_written(tmp_path: Path) -> None:
    records = made_up_records()

    written = write_report(
        tmp_path, about=made_up_about(), summary=run_of(records).summary, records=records
    )

    assert written.page == tmp_path / "report.html"
    assert_is_sound(written.page.read_text())
    assert {path.name for path in written.pictures} == {
        "ttft_over_time.png", "latency_cdfs.png", "itl_histogram.png", "ttft_by_part.png",
        "outstanding.png", "errors_over_time.png", "send_lag.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written.pictures)
