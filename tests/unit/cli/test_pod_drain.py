"""How long a pod that ends waits for its requests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serving.cli.pod import wait_until_idle


def waited(
    answers: Sequence[int | None], *, timeout_s: float = 60, at_least_s: float = 5
) -> tuple[int, float]:
    """Requests left, and seconds waited; the last answer stays."""
    clock = [0.0]
    told = iter(answers)

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    left = wait_until_idle(
        lambda: next(told, answers[-1]),
        lambda _: None,
        timeout_s=timeout_s,
        at_least_s=at_least_s,
        now=lambda: clock[0],
        sleep=sleep,
    )
    return left, clock[0]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([0], (0, 5.0)),
        ([3] * 8 + [0], (0, 8.0)),
        ([0, 0, 2, 2, 2, 2, 2, 0], (0, 7.0)),
        ([4], (4, 60.0)),
        ([None], (0, 15.0)),
        ([2, None], (2, 15.0)),
        ([2] + [None] * 14 + [0], (0, 15.0)),
    ],
)
def test_it_waits_for_the_last_request(
    answers: list[int | None], expected: tuple[int, float]
) -> None:
    """At least until nobody sends new ones, at most as long as the grace period allows, and not at
    all for processes that nobody can name."""
    left, seconds = waited(answers)
    assert (left, seconds) == (expected[0], pytest.approx(expected[1], abs=1.0))


def test_without_time_it_does_not_ask() -> None:
    assert waited([4], timeout_s=0) == (0, 0.0)
