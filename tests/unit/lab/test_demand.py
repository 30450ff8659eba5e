"""Demand, of a trace and made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from serving.lab.demand import Demand, bursty_day, read_demand


def test_what_a_trace_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    lines = [(2.5, 7, 3), (2.75, 0, 3), (4.0, 9, 1)]
    path.write_text(
        "".join(
            json.dumps({"at_s": at_s, "prompt_tokens": prompt, "output_tokens": output}) + "\n"
            for at_s, prompt, output in lines
        )
    )
    demand = read_demand(path, "galerne")
    assert demand.at_s.tolist() == [0.0, 1.5]
    assert demand.prompt_tokens.tolist() == [7, 9]
    assert demand.output_tokens.tolist() == [3, 1]
    assert demand.num_dropped == 1


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.4])
def test_scaling_keeps_the_course_of_the_demand(factor: float) -> None:
    rng = np.random.default_rng(0)
    at_s = np.sort(np.concatenate([rng.uniform(0, 1000, 2000), rng.uniform(400, 420, 1000)]))
    demand = Demand(at_s, rng.integers(1, 99, 3000), rng.integers(1, 99, 3000))
    scaled = demand.scaled(factor, rng)
    assert scaled.at_s.size == pytest.approx(3000 * factor, rel=0.1)
    assert (np.diff(scaled.at_s) >= 0).all()
    in_burst = np.mean((scaled.at_s > 395) & (scaled.at_s < 425))
    assert in_burst == pytest.approx(np.mean((at_s > 395) & (at_s < 425)), abs=0.04)


def test_a_made_up_day_has_a_night_and_bursts() -> None:
    demand = bursty_day(np.random.default_rng(3), hours=6.0, per_s=4.0)
    per_minute = np.bincount((demand.at_s / 60).astype(int), minlength=360)
    assert per_minute[150:210].mean() > 4 * per_minute[:40].mean()
    assert per_minute.max() > 1.5 * np.median(per_minute[150:210])
    assert np.median(demand.prompt_tokens) == pytest.approx(1020, rel=0.1)
