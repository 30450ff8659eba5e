"""Traces, as files and made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.errors import ConfigError
from serving.lab.demand import Demand, bursty_day, read_demand

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9305900,396,109
"""
MOONCAKE = '{"timestamp": 500, "input_length": 9, "output_length": 4, "hash_ids": [1]}\n'
GALERNE = '{"at_s": 2.5, "prompt_tokens": 7, "output_tokens": 0}\n\n'


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (AZURE, "azure", [(0.0, 374, 44), (4.25, 396, 109)]),
        (MOONCAKE, "mooncake", [(0.0, 9, 4)]),
        (GALERNE, "galerne", [(0.0, 7, 1)]),
    ],
)
def test_each_format(
    tmp_path: Path, text: str, name: str, expected: list[tuple[float, int, int]]
) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    demand = read_demand(path, name)
    rows = zip(demand.at_s, demand.prompt_tokens, demand.output_tokens, strict=True)
    assert [(pytest.approx(at_s), prompt, output) for at_s, prompt, output in rows] == expected


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "azure", "has no requests"),
        (AZURE, "mooncake", "no trace of the format mooncake"),
        (GALERNE, "azure", "no trace of the format azure"),
        ('{"at_s": 1}', "galerne", "no trace of the format galerne"),
        (AZURE, "parquet", "no trace of the format parquet"),
    ],
)
def test_what_is_no_trace_is_named(tmp_path: Path, text: str, name: str, message: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_demand(path, name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere: No such file"):
        read_demand(tmp_path / "nowhere", "azure")


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
