"""Distributions of lengths are those that their texts name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.workload.lengths import parse


def drawn(text: object, num: int = 20_000) -> np.ndarray:
    distribution, rng = parse(text), np.random.default_rng(0)
    return np.array([distribution.draw(rng) for _ in range(num)])


@pytest.mark.parametrize("text", [512, "512", 512.0, " 512 "])
def test_fixed(text: object) -> None:
    assert set(drawn(text, 9)) == {512.0}


def test_uniform_reaches_both_ends_as_often() -> None:
    values, counts = np.unique(drawn("uniform:3:5"), return_counts=True)
    assert values.tolist() == [3.0, 4.0, 5.0]
    assert counts == pytest.approx(np.full(3, 20_000 / 3), rel=0.05)


def test_uniform_between_fractions() -> None:
    values = drawn("uniform:0.5:1.5")
    assert (values.min(), values.max()) == pytest.approx((0.5, 1.5), abs=0.01)
    assert values.mean() == pytest.approx(1.0, abs=0.01)


def test_normal() -> None:
    values = drawn("normal:500:100")
    assert (values.mean(), values.std()) == pytest.approx((500, 100), rel=0.02)


def test_lognormal_has_its_median_and_sigma() -> None:
    values = drawn("lognormal:512:0.8")
    assert np.median(values) == pytest.approx(512, rel=0.03)
    assert np.log(values).std() == pytest.approx(0.8, rel=0.02)


def test_choice() -> None:
    values, counts = np.unique(drawn("choice:128=3,512=1"), return_counts=True)
    assert values.tolist() == [128.0, 512.0]
    assert counts[0] / 20_000 == pytest.approx(0.75, abs=0.01)
    assert set(drawn("choice:3,4", 50)) == {3.0, 4.0}


def test_a_histogram() -> None:
    values = drawn("choice:1-100=0.2,101-1000=0.8")
    assert (values <= 100).mean() == pytest.approx(0.2, abs=0.01)
    assert values[values > 100].mean() == pytest.approx(550, rel=0.02)


@pytest.mark.parametrize(
    "text",
    ["normal:10:100:min=5:max=20", "lognormal:10:3:max=20:min=5", "choice:1,99:min=5:max=20"],
)
def test_bounds_hold(text: str) -> None:
    values = drawn(text, 500)
    assert (values.min(), values.max()) == (5.0, 20.0)


def test_nothing_is_negative_and_tokens_are_at_least_one() -> None:
    assert drawn("normal:0:5", 500).min() == 0.0
    distribution, rng = parse("normal:0:5"), np.random.default_rng(0)
    assert min(distribution.draw_int(rng) for _ in range(500)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no number"),
        ("many", "'many' is no number; write for example 512"),
        ("zipf:1:2", "'zipf:1:2' is no length; write for example 512, uniform:100:1000"),
        ("uniform:5", "must be uniform:LEAST:GREATEST"),
        ("lognormal:5:1:9", "must be lognormal:MEDIAN:SIGMA"),
        ("lognormal:0:1", "the median must be above 0"),
        ("uniform:9:5", "the first bound is above the second"),
        ("choice:", "'' is no number"),
        ("choice:1=0,2=0", "the weights are all 0"),
        ("choice:9-5", "the first bound is above the second"),
        ("normal:nan:1", "'nan' must be a number from 0 to 10,000,000"),
        ("-5", "must be a number from 0 to 10,000,000"),
        ("inf", "must be a number from 0"),
        ("512:min=9:max=5", "min is above max"),
        ("512:min=x", "'x' is no number"),
        (True, "'True' is no number"),
        ([512], "is no number"),
        (None, "'None' is no number"),
    ],
)
def test_what_is_no_length_is_named(text: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@given(st.text(alphabet="0123456789:=,-.einfax lognrmuchtyw", max_size=40))
def test_any_text_is_a_length_or_a_value_error(text: str) -> None:
    try:
        distribution = parse(text)
    except ValueError:
        return
    value = distribution.draw(np.random.default_rng(0))
    assert value >= 0.0
    assert parse(distribution) is distribution
    assert parse(distribution.text) == distribution
