"""`galerne lab capacity` prints settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from serving.cli.lab_options import traced_demand
from serving.cli.main import app
from serving.cli.sim import timing_document
from serving.errors import ConfigError
from serving.settings.scaling import CapacitySettings, ScalingSettings
from serving.settings.simulator import TimingSettings

TIMING = TimingSettings(prefill_tokens_per_s=10_000, attention_s_per_token=0)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "short.jsonl"
    rows = ({"at_s": at, "prompt_tokens": 2000 + 200 * at, "output_tokens": 50} for at in range(20))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def capacity(*options: object) -> Result:
    return CliRunner().invoke(app, ["lab", "capacity", *map(str, options)])


def printed(*options: object) -> dict[str, Any]:
    found = capacity(*options, "--json")
    assert found.exit_code == 0, found.output
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def test_what_is_printed_can_be_pasted(trace: Path) -> None:
    found = capacity("--trace", trace, "--ttft-s", "1.5")
    assert found.exit_code == 0, found.output
    comment, line = found.stdout.splitlines()
    assert comment.startswith("# 20 requests of short.jsonl")
    assert "TTFT 1.5 s, 0.08 s between tokens" in comment
    assert line.startswith("capacity: {prompt_token_s: ")
    scaling = ScalingSettings(max_replicas=9, **yaml.safe_load(line))
    assert scaling.capacity is not None
    assert scaling.capacity.prompt_token_s == 5e-5


def test_it_is_printed_as_json_too(trace: Path) -> None:
    document = printed("--trace", trace)
    assert set(document) == {"capacity", "in_flight"}
    assert set(document["capacity"]) == set(CapacitySettings.model_fields)
    assert document["in_flight"] > 1


def test_lengths_and_chance_are_made_up_without_a_trace() -> None:
    first, again, other = printed(), printed(), printed("--seed", 1)
    assert first == again != other


def test_the_timing_of_a_real_engine_counts(trace: Path, tmp_path: Path) -> None:
    document = timing_document("mistral", TIMING)
    as_yaml, as_json = tmp_path / "timing.yaml", tmp_path / "timing.json"
    as_yaml.write_text(yaml.safe_dump(document))
    as_json.write_text(json.dumps({"timing": TIMING.model_dump(), "fit": {"probes": []}}))
    found = [printed("--trace", trace, "--timing", path) for path in (as_yaml, as_json)]
    assert found[0] == found[1]
    assert found[0]["capacity"]["prompt_token_s"] == 1e-4
    assert found[0]["capacity"]["output_token_s"] == TIMING.decode_s_per_sequence
    setting = "simulator.timing.prefill_tokens_per_s=40000"
    wins = printed("--trace", trace, "--timing", as_yaml, "--set", setting)
    assert wins["capacity"]["prompt_token_s"] == 2.5e-5


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"timing": 3},
        {"models": {"a": {}}},
        {"models": {"a": None}},
        timing_document("a", TIMING)["models"],
        {"models": {**timing_document("a", TIMING)["models"], "b": {"simulator": {"timing": {}}}}},
    ],
)
def test_a_file_without_one_timing_is_named(document: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(document))
    error = capacity("--timing", path).exception
    assert isinstance(error, ConfigError)
    assert (error.code, error.param) == ("timing_unreadable", "--timing")
    assert "other.yaml" in error.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = capacity("--timing", tmp_path / "none.yaml").exception
    assert isinstance(error, ConfigError)
    assert "none.yaml" in error.message


def test_an_slo_out_of_reach_is_named(trace: Path) -> None:
    error = capacity("--trace", trace, "--ttft-s", "0.001").exception
    assert isinstance(error, ConfigError)
    assert error.code == "slo_unreachable"
    assert error.hint


def test_what_is_left_out_of_a_trace_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.jsonl"
    lines = ({"at_s": 0, "prompt_tokens": length, "output_tokens": 2} for length in (0, 5, 0))
    path.write_text("\n".join(map(json.dumps, lines)))
    assert traced_demand(path, "galerne").prompt_tokens.tolist() == [5]
    assert "2 requests of length 0 are left out" in capsys.readouterr().err
