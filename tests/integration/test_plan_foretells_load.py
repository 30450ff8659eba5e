"""What a plan foretells from a calibration is what a load test then measures on that engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from simulated_engine import simulated_engine

from loadtest import records
from serving.lab.demand import Demand
from serving.lab.fleet import Room, Slo, make_rules
from serving.lab.observation import observe_trace
from serving.planner.measured_timing import read_measured_timing

GALERNE = (sys.executable, "-m", "serving")
CHUNK, SEQUENCES, BLOCKS = 256, 32, 4000
# Steps of 20 to 60 ms, so that a process which wakes some ms late changes little.
TIMING = {
    "step_s": 0.02,
    "prefill_tokens_per_s": 10_000,
    "decode_s_per_sequence": 0.001,
    "attention_s_per_token": 1e-6,
    "overhead_s": 0.01,
}
TOLERANCE = 0.2


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = {
        **{f"simulator.timing.{name}": value for name, value in TIMING.items()},
        "simulator.kv_blocks": BLOCKS,
        "engine.max_model_len": 1100,
        "engine.max_num_batched_tokens": CHUNK,
        "engine.max_num_seqs": SEQUENCES,
    }
    with simulated_engine(settings) as address:
        yield address


def galerne(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GALERNE, *map(str, words)], capture_output=True, text=True, timeout=120, check=False,
        env=os.environ,
    )  # fmt: skip


def write_trace(path: Path) -> None:
    """Fourteen seconds at random times, with a burst that fills the batch."""
    rng = np.random.default_rng(4)
    at_s = np.sort(np.concatenate([rng.uniform(0, 14, 30), rng.uniform(5, 8, 20)]))
    rows = (
        {"at_s": at, "prompt_tokens": int(rng.integers(50, 900)),
         "output_tokens": int(rng.integers(10, 60))}
        for at in at_s - at_s[0]
    )  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sent(found: pl.DataFrame) -> Demand:
    """What reached the engine, by its own count of tokens."""
    found = found.sort("due_s")
    return Demand(
        found["due_s"].to_numpy(),
        found["prompt_tokens"].cast(pl.Int64).to_numpy(),
        found["output_tokens"].cast(pl.Int64).to_numpy(),
    )


def test_ttft_and_itl_come_as_foretold(url: str, tmp_path: Path) -> None:
    written, trace = tmp_path / "measured.yaml", tmp_path / "trace.jsonl"
    write_trace(trace)
    done = galerne(
        "plan", "calibrate", "--url", url, "--model", "sim", "--model-config", "demo",
        "--gpu", "L4", "--chunk-tokens", str(CHUNK), "--max-num-seqs", str(SEQUENCES),
        "--out", written,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = read_measured_timing(yaml.safe_load(written.read_text()))
    assert (measured.gpu, measured.max_num_batched_tokens) == ("L4", CHUNK)

    done = galerne(
        "load", "run", "--url", url, "--trace", trace, "--format", "galerne",
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.returncode in (0, 4), done.stderr
    found = records.read(tmp_path / "out")
    assert found.height == 50

    room = Room(CHUNK, SEQUENCES, kv_tokens=(BLOCKS - 1) * 16)
    rules = make_rules(measured.timing, room, Slo())
    foretold = observe_trace(sent(found), rules, Slo(), num_replicas=1)
    ttft_s = found["ttft_s"].drop_nulls().to_numpy()
    itl_s = found["itl_s"].explode().drop_nulls().to_numpy()
    for name, expected, seen in (
        ("TTFT p50", foretold.ttft_p50_s, np.quantile(ttft_s, 0.5, method="higher")),
        ("TTFT p99", foretold.ttft_p99_s, np.quantile(ttft_s, 0.99, method="higher")),
        ("ITL p50", foretold.itl_p50_s, np.quantile(itl_s, 0.5, method="higher")),
        ("ITL p99", foretold.itl_p99_s, np.quantile(itl_s, 0.99, method="higher")),
    ):
        print(f"{name}: {expected:.4f} s foretold, {seen:.4f} s measured")
        assert expected == pytest.approx(seen, rel=TOLERANCE), name


def test_a_file_that_is_there_is_not_measured_over(url: str, tmp_path: Path) -> None:
    """It is told before the minute of measuring, not after."""
    written = tmp_path / "measured.yaml"
    written.write_text("mine")
    begun = time.monotonic()
    done = galerne(
        "plan", "calibrate", "--url", url, "--model", "sim", "--model-config", "demo",
        "--gpu", "L4", "--out", written,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert written.read_text() == "mine"
    assert time.monotonic() - begun < 20
