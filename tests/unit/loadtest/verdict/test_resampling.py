"""The bootstrap: quantiles of what was drawn, and intervals that hold as often as they say."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.verdict.effects import Effect, concluded
from loadtest.verdict.resampling import MOST_CLUSTERS, NUM_DRAWS, Floats, Sample, clustered, draws


def sessions(values: Floats, *, turns: int = 1) -> pl.DataFrame:
    place = np.arange(values.size)
    return pl.DataFrame({"session": place // turns, "due_s": place * 0.1, "m": values})


@settings(deadline=None, max_examples=100)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    shares=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_quantiles_of_a_draw_are_those_of_the_values_drawn(
    values: list[float], shares: list[float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    found = pl.DataFrame({"cluster": rng.integers(0, 4, len(values)), "m": values})
    drawn = rng.integers(0, 3, (5, 4))
    sample = Sample.of(found, "m")

    seen = sample.seen(shares, drawn)

    for place, share in enumerate(shares):
        assert seen[place].value == pytest.approx(np.quantile(values, share))
        for draw, counts in enumerate(drawn):
            repeated = np.repeat(sample.values, counts[sample.clusters])
            expected = np.quantile(repeated, share) if repeated.size else np.nan
            assert seen[place].drawn[draw] == pytest.approx(expected, nan_ok=True, abs=1e-6)


def test_sessions_stay_whole_and_neighbours_are_together() -> None:
    [found] = clustered(sessions(np.arange(600.0), turns=3))

    assert found["m"].to_list() == list(range(600))
    assert found.group_by("session").agg(pl.col("cluster").n_unique())["cluster"].max() == 1
    assert found["cluster"].is_sorted()
    assert found["cluster"].n_unique() == MOST_CLUSTERS
    assert found["cluster"].value_counts()["count"].unique().to_list() == [12]


def test_a_session_of_both_sides_has_one_cluster() -> None:
    whole = sessions(np.arange(100.0))

    a, b = clustered(whole, whole.tail(30).with_columns(due_s=pl.col("due_s") + 0.01))

    joined = a.join(b, on="session", suffix="_b")
    assert joined.height == 30
    assert joined["cluster"].to_list() == joined["cluster_b"].to_list()


def test_every_draw_takes_as_many_clusters_as_there_are() -> None:
    [found] = clustered(sessions(np.arange(20.0)))

    drawn = draws(np.random.default_rng(0), found)

    assert drawn.shape == (NUM_DRAWS, 20)
    assert set(drawn.sum(axis=1)) == {20}


def test_there_may_be_nothing_to_draw_from() -> None:
    [nothing] = clustered(sessions(np.array([])))

    assert draws(np.random.default_rng(0), nothing).shape == (NUM_DRAWS, 0)


@pytest.mark.parametrize(("is_paired", "share", "size"), [(True, 0.5, 100), (False, 0.99, 500)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    is_paired: bool, share: float, size: int
) -> None:
    truth, num_trials, held = 1.1, 50, 0
    for trial in range(num_trials):
        rng = np.random.default_rng(trial)
        of_request = rng.standard_normal((2, size))
        logs = of_request[[0, 0] if is_paired else [0, 1]] + rng.standard_normal((2, size))
        a, b = (sessions(np.exp(0.5 * log), turns=2) for log in logs)
        if is_paired:
            a, b = clustered(a, b)
            drawn_a = drawn_b = draws(rng, a, b)
        else:
            [a], [b] = clustered(a), clustered(b)
            drawn_a, drawn_b = draws(rng, a), draws(rng, b)
        [seen_a] = Sample.of(a, "m").seen([share], drawn_a)
        [seen_b] = Sample.of(b.with_columns(m=pl.col("m") * truth), "m").seen([share], drawn_b)
        found = concluded(Effect("m"), seen_a, seen_b, lacking=None)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high

    # At 95 %, fewer than 43 of 50 trials hold it in 1 of 300 tests.
    assert held >= 43
