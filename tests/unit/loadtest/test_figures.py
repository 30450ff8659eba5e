"""Figures: ratios, spreads and tables."""

import json

import pytest

from loadtest.figures import (
    Figures,
    Line,
    blocks,
    compare,
    markdown,
    paired_ratio,
    quantile,
    summary,
)


def test_a_summary_is_the_median_between_the_extremes() -> None:
    line = summary("case", "galerne", [30.0, 10.0, 20.0], unit="ms")

    assert (line.value, line.spread) == (20.0, (10.0, 30.0))


def test_one_measurement_has_no_spread() -> None:
    assert summary("case", "galerne", [30.0], unit="ms").spread is None


@pytest.mark.parametrize("base", [None, Line("c", "b", None, "ms"), Line("c", "b", 0.0, "ms")])
def test_nothing_is_compared_to_what_was_not_measured(base: Line | None) -> None:
    line = Line("c", "a", 30.0, "ms")

    assert compare(line, base) == line


def test_paired_ratios_cancel_a_drift_of_the_machine() -> None:
    line = paired_ratio("c", "a", [90.0, 45.0], against="b", base=[100.0, 50.0])

    assert (line.ratio, line.spread, line.against) == (0.9, (0.9, 0.9), "b")


def test_paired_ratios_refuse_unequal_counts() -> None:
    with pytest.raises(ValueError, match="longer"):
        paired_ratio("c", "a", [1.0], against="b", base=[1.0, 2.0])


def test_quantile_of_one_value_is_that_value() -> None:
    assert quantile([7.0], 0.9) == 7.0


def test_quantile_interpolates() -> None:
    assert quantile([0.0, 10.0], 0.9) == pytest.approx(9.0)


@pytest.mark.parametrize(("size", "count"), [(1, 4), (4, 4), (10, 3), (3, 1)])
def test_blocks_keep_order_and_leave_none_empty(size: int, count: int) -> None:
    values = [float(i) for i in range(size)]

    parts = blocks(values, count)

    assert [value for part in parts for value in part] == values
    assert all(parts)
    assert len(parts) == min(size, count)


def test_figures_compare_each_case_to_its_own_base() -> None:
    figures = Figures()
    figures.add("cpu", "galerne", 60.0, unit="µs")
    figures.add("cpu", "smg", 30.0, unit="µs")
    figures.add("rss", "smg", 100.0, unit="MiB")

    ratios = {(line.case, line.subject): line.ratio for line in figures.lines(base="galerne")}

    assert ratios == {("cpu", "galerne"): None, ("cpu", "smg"): 0.5, ("rss", "smg"): None}


def test_what_is_added_is_compared_to_the_direct_way() -> None:
    figures = Figures()
    for added_ms in (1.0, 2.0, 3.0):
        figures.add("added TTFT", "galerne", added_ms, unit="ms", direct=10.0)

    (line,) = figures.lines(base="smg")

    assert (line.value, line.ratio, line.against) == (2.0, 1.2, "direct")


def test_a_failure_does_not_hide_in_a_median() -> None:
    figures = Figures()
    for failed in (0.0, 5.0, 0.0):
        figures.add("failed", "galerne", failed, unit="streams", pick="max")

    (line,) = figures.lines()

    assert (line.value, line.spread) == (5.0, (0.0, 5.0))


def test_a_skipped_subject_is_a_line_with_its_reason() -> None:
    figures = Figures()
    figures.skip("relay", "litellm", "no such version")

    (line,) = figures.lines()

    assert json.loads(line.to_json())["note"] == "skipped: no such version"


def test_json_lines_have_the_promised_keys() -> None:
    line = Line("c", "a", 1.0, "ms", ratio=2.0, against="b", spread=(0.5, 1.5))

    assert json.loads(line.to_json()) == {
        "case": "c", "subject": "a", "value": 1.0, "unit": "ms", "ratio": 2.0, "against": "b",
        "spread": [0.5, 1.5],
    }  # fmt: skip


def test_markdown_has_the_machine_and_a_row_for_each_line() -> None:
    machine = {"cpu": "Some CPU", "versions": {"smg": "1.13.0"}}
    lines = [Line("c", "a", 1.5, "ms", spread=(1.0, 2.0)), Line("c", "b", None, "", note="x|y\nz")]

    text = markdown("relay", machine, lines)

    assert "- cpu: Some CPU" in text
    assert "- versions: smg 1.13.0" in text
    assert "| c | a | 1.5 | ms |  |  | 1 to 2 |  |" in text
    assert "| c | b |  |  |  |  |  | x\\|y z |" in text
