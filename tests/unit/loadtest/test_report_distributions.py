"""What plots mark, against the table beside them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from loadtest.report import distributions, series
from loadtest.verdict.measures import distribution

TIMES_MS = st.lists(st.floats(1, 1e5), min_size=2, max_size=30).map(np.array)
few = settings(deadline=None, max_examples=30)  # a plot takes 20 ms


@few
@given(TIMES_MS)
def test_dots_on_a_curve_are_the_percentiles_of_the_table(times_ms: series.Floats) -> None:
    axes = Figure().subplots()
    distributions.curves(axes, {"TTFT": times_ms})
    found = distribution(times_ms)

    (dots,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert found is not None
    assert dots.get_xdata() == pytest.approx([found.p50, found.p90, found.p99], abs=0.01)


@few
@given(TIMES_MS)
def test_a_percentile_over_time_is_that_of_the_table(times_ms: series.Floats) -> None:
    bins = series.Bins(np.array([0.0, 1.0]))
    found = distribution(times_ms)

    assert found is not None
    drawn = bins.quantile(np.full(times_ms.size, 0.5), times_ms, 0.99)
    assert drawn == pytest.approx([found.p99], abs=0.01)
