"""The gate: what fails a build, what is a suspicion, and what cannot be told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadtest.verdict.compare import Comparison
from loadtest.verdict.effects import Effect
from loadtest.verdict.gate import gate
from serving.errors import ConfigError

SAME = Effect("ttft_ms", "p50", 100.0, 100.0, "no difference", 1.0, 0.98, 1.02)
GOODPUT = Effect("goodput_rps", None, 10.0, 10.0, "no difference", 1.0, 1.0, 1.0, is_least=True)
FAILURES = Effect(
    "failed_ratio", None, 0.0, 0.0, "no difference", 0.0, 0.0, 0.0, is_difference=True
)


def changed(effect: Effect, change: float, low: float, high: float) -> Effect:
    return replace(effect, change=change, low=low, high=high)


def compared(*effects: Effect, problems: tuple[str, ...] = ()) -> Comparison:
    return Comparison("old", "new", 100, None, problems, effects)


def test_no_change_passes() -> None:
    found = gate(compared(SAME, GOODPUT, FAILURES))

    assert (found.passed, found.reasons, found.suspicions) == (True, (), ())


@pytest.mark.parametrize(
    ("effect", "is_regression", "is_suspicion"),
    [
        (changed(SAME, 1.10, 1.06, 1.15), True, False),
        (changed(SAME, 1.10, 1.04, 1.15), False, True),
        (changed(SAME, 1.04, 1.02, 1.06), False, False),
        (changed(SAME, 0.50, 0.40, 0.60), False, False),
        (changed(GOODPUT, 0.90, 0.88, 0.94), True, False),
        (changed(GOODPUT, 0.94, 0.90, 0.98), False, True),
        (changed(GOODPUT, 1.50, 1.40, 1.60), False, False),
        (changed(GOODPUT, 0.0, 0.0, 0.0), True, False),
        (changed(FAILURES, 0.03, 0.02, 0.04), True, False),
        (changed(FAILURES, 0.02, 0.005, 0.04), False, True),
        (changed(FAILURES, 0.01, 0.01, 0.01), False, False),
    ],
)
def test_only_what_is_certain_fails(
    effect: Effect, is_regression: bool, is_suspicion: bool
) -> None:
    found = gate(compared(effect))

    assert found.passed is not is_regression
    assert found.regressions == ((effect,) if is_regression else ())
    assert found.suspicions == ((effect,) if is_suspicion else ())


def test_the_reason_names_the_figure_and_its_tolerance() -> None:
    worse = replace(changed(SAME, 1.10, 1.06, 1.15), b=110.0, conclusion="worse")

    assert gate(compared(worse)).reasons == (
        "ttft_ms.p50: worse, 100 became 110: 1.1 times as much (1.06 to 1.15); "
        "the tolerance is 1.05",
    )


@pytest.mark.parametrize(
    ("tolerances", "passed"),
    [
        ({}, False),
        ({"ttft_ms": 1.2}, True),
        ({"ttft_ms.p50": 1.2}, True),
        ({"ttft_ms": 1.01, "ttft_ms.p50": 1.2}, True),
        ({"ttft_ms": 1.2, "ttft_ms.p50": 1.01}, False),
        ({"goodput_rps": 1.2}, False),
    ],
)
def test_the_nearest_tolerance_counts(tolerances: dict[str, float], passed: bool) -> None:
    worse = changed(SAME, 1.10, 1.06, 1.15)

    assert gate(compared(worse, GOODPUT), tolerances=tolerances).passed is passed


def test_a_tolerance_for_all() -> None:
    worse = changed(SAME, 1.10, 1.06, 1.15)

    assert gate(compared(worse), max_regression_ratio=1.06).passed
    more_failures = changed(FAILURES, 0.5, 0.4, 0.6)
    assert not gate(compared(more_failures), max_regression_ratio=3.0).passed
    assert gate(compared(more_failures), tolerances={"failed_ratio": 0.5}).passed


def test_nothing_to_tell_is_no_pass() -> None:
    undecided = Effect("ttft_ms", "p50", reason="nothing was measured")

    found = gate(compared(undecided))

    assert not found.passed
    assert found.reasons == ("nothing can be told: ttft_ms.p50: undecided, nothing was measured",)
    assert gate(compared(undecided, GOODPUT)).passed


def test_a_late_generator_is_no_pass() -> None:
    found = gate(compared(SAME, problems=("B: the generator was the bottleneck",)))

    assert (found.passed, found.reasons) == (False, ("B: the generator was the bottleneck",))


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tolerances": {"ttft": 1.1}}, "ttft"),
        ({"tolerances": {"ttft_ms": 0.9}}, "ttft_ms"),
        ({"tolerances": {"failed_ratio": -0.1}}, "failed_ratio"),
        ({"tolerances": {"ttft_ms": float("nan")}}, "ttft_ms"),
        ({"max_regression_ratio": 0.5}, "max_regression_ratio"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], param: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gate(compared(SAME, FAILURES), **options)

    assert (caught.value.code, caught.value.param) == ("tolerance_invalid", param)
