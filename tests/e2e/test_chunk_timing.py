"""The chunk that the planner chooses for a window makes room and costs little.

Times on a machine that others share say little, so this runs only when asked for, on an idle one.
"""

from __future__ import annotations

import pytest

from loadtest.benches import chunk


@pytest.mark.timeout(900)
def test_three_times_the_room_for_a_quarter_of_ttft_at_most(
    request: pytest.FixtureRequest,
) -> None:
    if not request.config.getoption("--timed"):
        pytest.skip("measures times, which takes an idle machine: give --timed to run it")
    lines, _ = chunk.bench(chunk.Plan())
    for line in lines:
        print(line.to_json())
    assert chunk.ratio(lines, chunk.ROOM) >= 3
    assert chunk.ratio(lines, f"{chunk.TTFT}, by round") <= 1 + chunk.TOLERANCE
