"""What a comparison says in its first line."""

from dataclasses import replace

import pytest

from loadtest.report.comparison_page import change, look_of
from loadtest.verdict.compare import Comparison
from loadtest.verdict.effects import Effect

WORSE = Effect("ttft_ms", "p99", 100.0, 120.0, "worse", 1.2, 1.1, 1.31)
BETTER = Effect("goodput_rps", None, 10.0, 12.0, "better", 1.2, 1.1, 1.31, is_least=True)
SAME = Effect("latency_ms", "p50", 10.0, 10.0, "no difference", 1.0, 0.9, 1.1)
UNDECIDED = Effect("itl_ms", "p50", reason="nothing was measured")


def compared(*effects: Effect, problems: tuple[str, ...] = ()) -> Comparison:
    return Comparison("a", "b", 0, None, problems, effects)


@pytest.mark.parametrize(
    ("comparison", "kind", "headline"),
    [
        (compared(WORSE, SAME), "fail", "B is worse: ttft_ms.p99"),
        (compared(BETTER, WORSE), "fail", "B is worse: ttft_ms.p99; better: goodput_rps"),
        (compared(BETTER, UNDECIDED), "pass", "B is better: goodput_rps"),
        (compared(SAME, UNDECIDED), "none", "No difference is shown"),
        (compared(UNDECIDED), "none", "Undecided: too little was measured"),
        (compared(BETTER, problems=("A: late",)), "invalid", "This compares no servers"),
    ],
)  # fmt: skip
def test_the_first_line_says_what_came_of_it(
    comparison: Comparison, kind: str, headline: str
) -> None:
    look = look_of(comparison)

    assert (look.kind, look.word) == (kind, headline)


def test_a_ratio_of_failures_changes_by_a_difference() -> None:
    failures = replace(WORSE, metric="failed_ratio", change=0.02, low=0.01, high=0.03)

    assert change(replace(failures, is_difference=True)) == ("+0.02", "+0.01 to +0.03")


def test_what_is_undecided_has_no_change() -> None:
    assert change(UNDECIDED) == ("—", "")
