"""The verdict on the simulator's timing."""

from __future__ import annotations

import pytest

from loadtest.benches.fidelity import Latencies, _record, _verdicts, is_faithful
from loadtest.figures import Figures


def rounds(*factors: float) -> Figures:
    """Rounds in which the simulator takes that many times as long as the engine."""
    figures = Figures()
    for factor in factors:
        engine = Latencies([0.5, 0.6, 0.9], [0.05, 0.06, 0.1])
        simulator = Latencies(*([factor * value for value in values] for values in engine))
        _record("bare-vllm-one-process", engine, figures)
        _record("simulator", simulator, figures)
    return figures


@pytest.mark.parametrize(
    ("factors", "is_near"),
    [((1.0,), True), ((0.86, 1.14), True), ((1.2,), False), ((1.3, 1.0, 0.9), True)],
)
def test_the_median_of_the_rounds_decides(factors: tuple[float, ...], is_near: bool) -> None:
    lines = _verdicts(rounds(*factors))
    assert is_faithful(lines) == is_near
    assert {line.note for line in lines} == {"within 15%" if is_near else "NOT within 15%"}
