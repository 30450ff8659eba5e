"""What happens when the figures of a decision are missing, old or nonsense."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.scaling.guard import BLIND_HOLD_S, MAX_AGE_S, GuardedPolicy, Trouble
from serving.scaling.policy import Decision
from serving.scaling.signals import Replicas, Signals

GOOD = Signals(0.0, requests_per_s=1.0, prompt_tokens_per_s=1000.0, output_tokens_per_s=100.0)
FOUR = Replicas(target=4, ready=4)


class Fixed:
    """Wants what it was told to; fails while `error` is set."""

    def __init__(self, desired: int) -> None:
        self.desired = desired
        self.error: Exception | None = None

    def decide(self, signals: Signals, replicas: Replicas) -> Decision:
        del signals, replicas
        if self.error is not None:
            raise self.error
        return Decision(self.desired, "because")


def test_good_figures_decide() -> None:
    assert GuardedPolicy(Fixed(7)).decide(GOOD, None, FOUR, now_s=0.0) == Decision(7, "because")


@pytest.mark.parametrize(
    ("measured", "trouble", "word"),
    [
        (None, Trouble.MISSING, "no figures"),
        (replace(GOOD, age_s=MAX_AGE_S + 1), Trouble.STALE, "31 s old"),
        (replace(GOOD, waiting_tokens=math.nan), Trouble.NONSENSE, "waiting_tokens is nan"),
        (replace(GOOD, requests_per_s=-1.0), Trouble.NONSENSE, "requests_per_s is -1.0"),
        (replace(GOOD, kv_used_ratio=7.0), Trouble.NONSENSE, "kv_used_ratio is 7.0"),
        (replace(GOOD, queued=math.inf), Trouble.NONSENSE, "queued is inf"),
    ],
)
def test_bad_figures_hold_the_target(measured: Signals | None, trouble: Trouble, word: str) -> None:
    guarded = GuardedPolicy(Fixed(1))
    decision = guarded.decide(measured, GOOD, FOUR, now_s=0.0)
    assert decision.desired == 4
    assert word in decision.reason
    assert guarded.troubles == {trouble: 1}


def test_reports_of_replicas_take_over_after_a_while() -> None:
    guarded = GuardedPolicy(Fixed(6))
    assert guarded.decide(None, GOOD, FOUR, now_s=10.0).desired == 4
    assert guarded.decide(None, GOOD, FOUR, now_s=9.9 + BLIND_HOLD_S).desired == 4
    decision = guarded.decide(None, GOOD, FOUR, now_s=10.0 + BLIND_HOLD_S)
    assert decision.desired == 6
    assert "own reports" in decision.reason


def test_good_figures_end_the_blindness() -> None:
    guarded = GuardedPolicy(Fixed(6))
    guarded.decide(None, GOOD, FOUR, now_s=0.0)
    guarded.decide(GOOD, None, FOUR, now_s=50.0)
    assert guarded.decide(None, GOOD, FOUR, now_s=70.0).desired == 4


def test_without_either_the_target_holds_for_ever() -> None:
    guarded = GuardedPolicy(Fixed(1))
    for now_s in (0.0, 1e3, 1e6):
        assert guarded.decide(None, None, FOUR, now_s=now_s).desired == 4


def test_a_policy_that_fails_changes_nothing_and_is_counted() -> None:
    policy = Fixed(9)
    policy.error = ZeroDivisionError()
    guarded = GuardedPolicy(policy)
    assert guarded.decide(GOOD, GOOD, FOUR, now_s=0.0).desired == 4
    assert guarded.troubles == {Trouble.POLICY_FAILED: 1}


def test_only_prometheus_may_send_everything_away() -> None:
    guarded = GuardedPolicy(Fixed(0))
    assert guarded.decide(GOOD, None, FOUR, now_s=0.0).desired == 0
    guarded.decide(None, GOOD, FOUR, now_s=0.0)
    assert guarded.decide(None, GOOD, FOUR, now_s=BLIND_HOLD_S).desired == 1


def test_figures_of_a_part_of_the_replicas_order_more_but_let_none_go() -> None:
    partial = replace(GOOD, replicas_seen=2)
    more = GuardedPolicy(Fixed(6))
    decision = more.decide(partial, None, FOUR, now_s=0.0)
    assert (decision.desired, decision.reason) == (6, "because; figures of 2 of 4 replicas")
    assert more.troubles == {Trouble.PARTIAL: 1}
    fewer = GuardedPolicy(Fixed(1))
    assert fewer.decide(partial, None, FOUR, now_s=0.0).desired == 4
    assert fewer.decide(partial, None, FOUR, now_s=1e6).desired == 4


def test_replicas_that_are_never_scraped_are_asked_themselves() -> None:
    guarded = GuardedPolicy(Fixed(1))
    partial = replace(GOOD, replicas_seen=2)
    guarded.decide(partial, GOOD, FOUR, now_s=0.0)
    assert guarded.decide(partial, GOOD, FOUR, now_s=BLIND_HOLD_S).desired == 1


def test_one_decision_is_made_of_one_load() -> None:
    """Asked twice, a policy would take the mean of both."""

    class Counting(Fixed):
        num_asked = 0

        def decide(self, signals: Signals, replicas: Replicas) -> Decision:
            self.num_asked += 1
            return super().decide(signals, replicas)

    policy = Counting(1)
    guarded = GuardedPolicy(policy)
    for now_s in (0.0, BLIND_HOLD_S, 2 * BLIND_HOLD_S):
        guarded.decide(replace(GOOD, replicas_seen=2), GOOD, FOUR, now_s=now_s)
    assert policy.num_asked == 3


def test_gateways_that_tell_nothing_are_missed() -> None:
    fewer = GuardedPolicy(Fixed(1))
    decision = fewer.decide(replace(GOOD, gateways_missing=1), None, FOUR, now_s=0.0)
    assert (decision.desired, decision.reason) == (4, "because; 1 gateways tell nothing")


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
            st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)),
            st.floats(-100, 100),
        ),
        max_size=20,
    )
)
def test_whatever_is_told_it_decides(steps: list[tuple[float | None, float | None, float]]) -> None:
    """Even with a clock that jumps."""
    guarded = GuardedPolicy(Fixed(2))
    for measured, told, now_s in steps:
        first = None if measured is None else replace(GOOD, waiting_tokens=measured)
        second = None if told is None else replace(GOOD, age_s=told)
        assert guarded.decide(first, second, FOUR, now_s=now_s).desired in (2, 4)
