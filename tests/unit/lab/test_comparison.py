"""Policies side by side on a short demand, as `galerne lab scaling` compares them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from serving.cli.main import app
from serving.errors import ConfigError
from serving.lab.comparison import Comparison, Question, prepare
from serving.lab.demand import Demand, bursty_day
from serving.lab.fleet import Slo
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings

KEYS = {"policy", "violation_s", "replica_s", "goodput_ratio", "direction_changes_per_10min"}
MODEL = ModelSettings(
    simulator=SimulatorSettings(kv_blocks=8000), engine=EngineSettings(max_num_batched_tokens=1024)
)


def question(slo: Slo | None = None) -> Question:
    return Question(MODEL, slo or Slo(), peak_replicas=3, cold_start_s=60.0)


def an_hour(factor: float, rng: np.random.Generator) -> Demand:
    return bursty_day(rng, hours=1.0, per_s=factor)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of an hour."""
    demand = bursty_day(np.random.default_rng(1), hours=0.25)
    rows = zip(demand.at_s, demand.prompt_tokens, demand.output_tokens, strict=True)
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    path.write_text(
        "".join(
            json.dumps({"at_s": at_s, "prompt_tokens": int(prompt), "output_tokens": int(output)})
            + "\n"
            for at_s, prompt, output in rows
        )
    )
    return path


def test_each_policy_has_a_line_and_a_log_and_a_picture(trace: Path, tmp_path: Path) -> None:
    picture, log = tmp_path / "day.png", tmp_path / "log.jsonl"
    found = CliRunner().invoke(
        app,
        ["lab", "scaling", "--trace", str(trace), "--peak-replicas", "3", "--cold-start-s", "60",
         "--picture", str(picture), "--log", str(log), "--json",
         "--policy", "slo", "--policy", "oracle", "--policy", "ray_default"],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    rows = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]
    assert [row["policy"] for row in rows] == ["slo", "oracle", "ray_default"]
    assert all(set(row) == KEYS for row in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")
    decisions = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"policy", "at_s", "desired", "reason"} == set(decisions[0])


def test_the_busiest_minute_needs_what_was_asked_for() -> None:
    bench = prepare(question(), an_hour)
    demand, capacity = bench.setting.demand, bench.replica.capacity
    work = demand.work_s(capacity.prompt_token_s, capacity.output_token_s)
    busiest = np.bincount((demand.at_s / 60).astype(int), weights=work).max() / 60
    assert capacity.replicas_for(float(busiest)) == pytest.approx(3.0, rel=0.1)


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ConfigError, match="no such policy: guess"):
        Comparison(question(), None, ["guess"], tell=print)


def test_an_slo_out_of_reach_is_named() -> None:
    hopeless = question(Slo(ttft_s=0.001))
    with pytest.raises(ConfigError, match="cannot keep the SLO"):
        prepare(hopeless, an_hour)
