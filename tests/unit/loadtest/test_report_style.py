"""Axes and names of plots."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.report import style

TIMES_MS = st.floats(0.01, 1e8)
few = settings(deadline=None, max_examples=30)  # a plot takes 20 ms


def axes() -> Axes:
    return Figure().subplots()


def visible_ticks(axis_of: Axes, which: str) -> list[str]:
    axis = axis_of.xaxis if which == "x" else axis_of.yaxis
    low, high = axis.get_view_interval()
    places = [place for place in axis.get_majorticklocs() if low <= place <= high]
    return [axis.get_major_formatter()(place) for place in places]


@few
@given(st.lists(TIMES_MS, min_size=1, max_size=50))
def test_times_are_within_an_axis_that_can_be_read(times_ms: list[float]) -> None:
    drawn = axes()
    style.duration_axis(drawn, "x", np.array(times_ms))
    low, high = drawn.get_xlim()
    labels = visible_ticks(drawn, "x")

    assert low <= min(times_ms)
    assert max(times_ms) <= high
    assert 2 <= len(labels) <= 12
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    ("times_ms", "scale"), [([10.0, 20.0], "linear"), ([10.0, 2000.0], "log"), ([], "linear")]
)
def test_an_axis_is_logarithmic_where_times_differ_much(times_ms: list[float], scale: str) -> None:
    drawn = axes()
    style.duration_axis(drawn, "y", np.array(times_ms))

    assert drawn.get_yscale() == scale


@few
@given(st.floats(1e-3, 1e7))
def test_time_since_the_beginning_has_few_ticks(last_s: float) -> None:
    drawn = axes()
    style.time_axis(drawn, last_s)
    labels = visible_ticks(drawn, "x")

    assert 2 <= len(labels) <= 10
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("scaled", [style.count_axis, style.log_count_axis])
@few
@given(greatest=st.integers(1, 10**9))
def test_counts_are_whole_numbers(scaled: Callable[[Axes], None], greatest: int) -> None:
    drawn = axes()
    drawn.plot([0, 1], [1, greatest])
    scaled(drawn)
    labels = visible_ticks(drawn, "y")

    assert labels
    assert len(set(labels)) == len(labels)


def test_a_name_that_begins_with_an_underscore_is_in_the_legend() -> None:
    drawn = axes()
    handles = [*drawn.plot([0, 1], [0, 1]), *drawn.plot([0, 1], [1, 0])]
    style.legend(drawn, handles, ["_hidden", "shown"])
    legend = drawn.get_legend()

    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [" _hidden", "shown"]
