"""Who gets the GPUs when models together want more than there are."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from serving.scaling.budget import Claim, share

FOUR = Claim(desired=4, lowest=1, held=0, gpus=1)

claims = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(
        Claim,
        desired=st.integers(0, 40),
        lowest=st.integers(0, 3),
        held=st.integers(0, 40),
        gpus=st.integers(0, 8),
        pressure=st.floats(1, 10),
        promised=st.integers(0, 5),
        kept=st.integers(0, 40),
    ),
    max_size=6,
)


def test_without_a_budget_all_have_what_they_desire() -> None:
    assert share({"a": FOUR, "b": FOUR}, budget=None) == {"a": 4, "b": 4}


def test_a_model_whose_users_wait_comes_first() -> None:
    assert share({"a": FOUR, "b": replace(FOUR, pressure=5.0)}, budget=5) == {"a": 1, "b": 4}


def test_what_runs_is_not_handed_to_and_fro() -> None:
    """Of two with the same need, each keeps what it has."""
    held = {"a": replace(FOUR, held=3), "b": replace(FOUR, held=2)}
    assert share(held, budget=5) == {"a": 3, "b": 2}
    assert share(dict(reversed(held.items())), budget=5) == {"a": 3, "b": 2}


def test_a_model_without_gpus_is_not_in_the_budget() -> None:
    assert share({"a": FOUR, "cpu": replace(FOUR, gpus=0)}, budget=2) == {"a": 2, "cpu": 4}


def test_what_is_left_goes_to_one_that_fits() -> None:
    assert share({"large": replace(FOUR, gpus=4), "small": FOUR}, budget=7) == {
        "large": 1, "small": 3,
    }  # fmt: skip


def test_who_needs_any_has_one_before_others_have_many() -> None:
    assert share({"chat": Claim(8, 1, 4, 1), "small": Claim(1, 0, 0, 1)}, budget=4) == {
        "chat": 3, "small": 1,
    }  # fmt: skip


def test_promises_come_before_wishes() -> None:
    gold = replace(FOUR, promised=3)
    assert share({"a": replace(FOUR, pressure=9.0), "gold": gold}, budget=5) == {"a": 2, "gold": 3}


def test_what_is_kept_comes_before_what_others_want_more() -> None:
    held = replace(FOUR, held=4, kept=4)
    assert share({"a": held, "b": replace(FOUR, pressure=9.0)}, budget=6) == {"a": 4, "b": 2}


@given(claims=claims, budget=st.integers(0, 100))
def test_nobody_gets_more_than_desired_nor_all_more_than_there_is(
    claims: dict[str, Claim], budget: int
) -> None:
    granted = share(claims, budget=budget)
    assert granted.keys() == claims.keys()
    for name, claim in claims.items():
        assert min(claim.lowest, claim.desired) <= granted[name] <= claim.desired
    taken = sum(claims[name].gpus * number for name, number in granted.items())
    promised = sum(min(claim.lowest, claim.desired) * claim.gpus for claim in claims.values())
    assert taken <= max(budget, promised)
    left = budget - taken
    for name, claim in claims.items():  # and nothing is left that somebody could use
        assert granted[name] == claim.desired or claim.gpus > left


@given(claims=claims, budget=st.integers(0, 100))
def test_a_larger_budget_takes_nothing_from_equals(claims: dict[str, Claim], budget: int) -> None:
    """Replicas of one size: who has won one keeps it when there is more."""
    same = {name: replace(claim, gpus=1) for name, claim in claims.items()}
    some, more = share(same, budget=budget), share(same, budget=budget + 1)
    assert all(more[name] >= some[name] for name in same)
