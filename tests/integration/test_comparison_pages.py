"""Pages of two runs compared, with all their pictures."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from made_up_run import made_up_about, made_up_records
from page_elements import Elements, assert_is_sound

from loadtest.records import frame
from loadtest.report.files import write_comparison
from loadtest.verdict.compare import Side, compare

HOSTILE = "<b>$x$</b> & 日本"
RUN = made_up_records(duration_s=40.0)


def side(records: pl.DataFrame, **changes: object) -> Side:
    return Side(made_up_about().model_copy(update=changes), records)


def test_what_changed_is_said_and_drawn(tmp_path: Path) -> None:
    slower = RUN.with_columns(ttft_s=pl.col("ttft_s") * 1.3)
    a, b = side(RUN, title="before"), side(slower, title=HOSTILE)

    written = write_comparison(tmp_path, a, b, compare(a, b))

    page = written.page.read_text()
    assert_is_sound(page)
    text = Elements(page).text
    assert HOSTILE in text
    assert "B is worse: ttft_ms.p50, ttft_ms.p99" in text
    assert {path.name for path in written.pictures} == {
        "changes.png", "compared_ttft.png", "compared_latency.png", "compared_tpot.png",
        "compared_itl.png",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (frame([]), frame([])),
        (RUN, frame([])),
        (RUN, RUN.head(1)),
        (RUN, RUN.with_columns(error=pl.lit("timeout"))),
        (RUN, RUN.with_columns(pl.lit(None, pl.Float64).alias("ttft_s"), is_stream=False)),
        (RUN, RUN.with_columns(latency_s=pl.col("latency_s") * 1e6)),
    ],
    ids=["nothing", "one empty", "one request", "one failed", "no streams", "a million times"],
)
def test_any_two_runs_have_a_page(a: pl.DataFrame, b: pl.DataFrame, tmp_path: Path) -> None:
    sides = side(a), side(b, seed=8, workload={"other": 1})

    written = write_comparison(tmp_path, *sides, compare(*sides))

    assert_is_sound(written.page.read_text())
