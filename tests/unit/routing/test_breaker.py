"""A replica that fails is left alone for longer and longer, and tried by one request at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.core.types import ReplicaId
from serving.routing.breaker import NUM_FAILURES, Breakers

A, B = ReplicaId("a"), ReplicaId("b")


def opened(at: float = 0.0) -> Breakers:
    breakers = Breakers()
    for _ in range(NUM_FAILURES):
        assert not breakers.is_open(A, at)
        breakers.failed(A, at)
    return breakers


def test_failures_in_a_row_open_it() -> None:
    breakers = opened()
    assert breakers.is_open(A, 0.99)
    assert not breakers.is_open(B, 0.0)


def test_an_answer_in_between_starts_anew() -> None:
    breakers = Breakers()
    for _ in range(NUM_FAILURES - 1):
        breakers.failed(A, 0.0)
    breakers.succeeded(A)
    breakers.failed(A, 0.0)
    assert not breakers.is_open(A, 0.0)


def test_one_request_probes_at_a_time() -> None:
    breakers = opened()
    breakers.sent(A, 1.0)
    assert breakers.is_open(A, 1.0)
    breakers.left(A)
    assert not breakers.is_open(A, 1.0)


def test_pauses_double_up_to_half_a_minute() -> None:
    breakers, now, pauses = opened(), 0.0, []
    for _ in range(8):
        begun = now
        while breakers.is_open(A, now):
            now += 0.5
        pauses.append(now - begun)
        breakers.sent(A, now)
        breakers.failed(A, now)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_failures_of_requests_sent_before_it_opened_do_not_count() -> None:
    breakers = opened()
    for _ in range(100):
        breakers.failed(A, 0.5)
    assert not breakers.is_open(A, 1.0)


def test_replicas_that_are_gone_are_forgotten() -> None:
    breakers = opened()
    breakers.keep({B})
    assert not breakers.is_open(A, 0.0)


@given(st.lists(st.sampled_from(["failed", "sent", "left", "succeeded", "wait"]), max_size=60))
def test_it_never_stays_open_without_a_request(steps: list[str]) -> None:
    """Whatever has happened, a replica that holds nothing is tried again within 30 s."""
    breakers, now = Breakers(), 0.0
    for step in steps:
        now += 0.3 if step == "wait" else 0.0
        if step in ("failed", "sent"):
            getattr(breakers, step)(A, now)
        elif step != "wait":
            getattr(breakers, step)(A)
    breakers.left(A)
    assert not breakers.is_open(A, now + 30.0)
