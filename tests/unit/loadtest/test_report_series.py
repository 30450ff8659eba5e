"""What plots draw, as numbers."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.records import Record, frame
from loadtest.report import series
from loadtest.verdict.measures import measured

SECONDS = st.floats(0, 100)
REQUESTS = st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=60)


def answered(due_s: float, latency_s: float | None, **more: object) -> Record:
    record = Record(0, 0, "chat", "demo", True, due_s, 0.0, 2, latency_s=latency_s)
    for name, value in more.items():
        setattr(record, name, value)
    return record


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=2000))
def test_a_cdf_rises_from_the_least_to_the_greatest(values: list[float]) -> None:
    times, share = series.cdf(np.array(values))

    assert (times[0], times[-1], share[-1]) == (min(values), max(values), 100)
    assert all(a <= b for a, b in pairwise(times))
    assert all(a < b for a, b in pairwise(share))


def test_a_cdf_of_a_million_is_few_points_that_lie_on_it() -> None:
    times, share = series.cdf(np.arange(1_000_000.0))

    assert times.size <= 650
    assert share == pytest.approx(100 * (times + 1) / 1_000_000)
    assert np.diff(share[-5:]).max() < 0.001


@given(REQUESTS)
def test_bins_hold_every_request_and_the_end_of_every_answer(
    spans: list[tuple[float, float]],
) -> None:
    records = frame(answered(due_s, latency_s) for due_s, latency_s in spans)
    bins = series.bins(records, 0.0)
    ends_s = np.array([due_s + latency_s for due_s, latency_s in spans])

    assert bins.rate(records["due_s"].to_numpy()).sum() * bins.width_s == pytest.approx(len(spans))
    assert bins.rate(ends_s).sum() * bins.width_s == pytest.approx(len(spans))


def test_quantiles_of_bins_are_of_the_values_in_each() -> None:
    bins = series.Bins(np.array([0.0, 1.0, 2.0, 3.0]))

    drawn = bins.quantile(np.array([2.5, 0.5, 0.2, 3.0]), np.array([7.0, 1.0, 2.0, 9.0]), 1.0)

    assert drawn.tolist() == pytest.approx([2.0, np.nan, 9.0], nan_ok=True)


@given(REQUESTS)
def test_outstanding_counts_who_was_sent_and_not_answered(spans: list[tuple[float, float]]) -> None:
    _, count = series.outstanding(frame(answered(due_s, lasts_s) for due_s, lasts_s in spans))

    lives = [(due_s, due_s + lasts_s) for due_s, lasts_s in spans]
    at_once = [sum(begin <= moment < end for begin, end in lives) for moment, _ in lives]
    assert count.max(initial=0) == max(at_once)
    assert count.min(initial=0) == 0


def test_the_peak_of_outstanding_requests_outlives_thinning() -> None:
    records = frame(
        [answered(float(i), 0.5) for i in range(5000)] + [answered(2500.0, 0.25) for _ in range(9)]
    )
    at_s, count = series.outstanding(records)

    assert at_s.size <= 600
    assert count.max() == 10


def test_only_what_was_measured_is_drawn() -> None:
    requests = measured(
        frame(
            [
                answered(0.0, 1.0, ttft_s=0.5),
                answered(1.0, 1.0, ttft_s=0.5, error="timeout"),
                answered(2.0, 1.0, ttft_s=0.5, cancelled=True),
                answered(3.0, 1.0),
                answered(4.0, 1.0, ttft_s=float("nan")),
            ]
        ),
        None,
    )
    due_s, ttft_ms = series.points(requests, "ttft_ms")

    assert (due_s.tolist(), ttft_ms.tolist()) == ([0.0], [500.0])


def test_of_very_many_gaps_those_of_some_answers_are_taken() -> None:
    gaps = pl.Series("itl_s", [[0.01] * 1000], dtype=pl.List(pl.Float32))
    one = frame([answered(0.0, 1.0)]).with_columns(gaps)
    many = measured(pl.concat([one] * 5000), None)

    taken, step = series.some_gaps_ms(many)

    assert step == 3
    assert taken.size == 1_667_000
