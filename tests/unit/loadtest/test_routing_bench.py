"""What the routing bench makes of its answers."""

import pytest

from loadtest.benches.routing import Answered, answered, summarize
from loadtest.peers.base import UnavailableError


def test_figures_of_one_replay() -> None:
    answers = [Answered(0.001 * n, prompt_tokens=100, cached_tokens=20) for n in range(1, 101)]
    row = summarize("p", answers, oracle=0.25, busy_s=[1.0, 1.0, 4.0])
    assert (row.hit_ratio, row.oracle_hit_ratio, row.failed) == (0.2, 0.25, 0)
    assert row.ttft_p50_ms == pytest.approx(50.5, abs=0.1)
    assert row.ttft_p90_ms == pytest.approx(90.1, abs=0.1)
    assert row.ttft_p90_spread_ms[0] < 25 < 95 < row.ttft_p90_spread_ms[1]
    assert row.load_max_over_mean == 2.0
    assert row.cells()["of the oracle's"] == "80.0%"


def test_failures_are_told_and_many_are_no_result() -> None:
    answers = [Answered(0.1, 100, 0)] * 199 + [Answered()]
    assert summarize("p", answers, oracle=0.5, busy_s=[1.0]).failed == 1
    with pytest.raises(UnavailableError, match="200 of 399"):
        summarize("p", answers + [Answered()] * 199, oracle=0.5, busy_s=[1.0])


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"data: [DONE]\n\n",
        b'data: {"choices": []}\n\n',
        b'data: {"error": {}}\n\ndata: [DONE]\n\n',
    ],
)
def test_a_stream_without_its_end_has_failed(end: bytes) -> None:
    assert answered(0.1, end) == Answered()
