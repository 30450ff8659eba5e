"""A calibrated simulated engine is as fast as the real one.

Times on a machine that others share say little, so this runs only when asked for, on an idle one.
"""

from __future__ import annotations

import pytest

from loadtest.benches import fidelity


@pytest.mark.timeout(900)
def test_ttft_and_itl_are_within_the_tolerance(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--timed"):
        pytest.skip("measures times, which takes an idle machine: give --timed to run it")
    lines, _ = fidelity.bench(fidelity.Plan())
    for line in lines:
        print(line.to_json())
    assert fidelity.is_faithful(lines)
