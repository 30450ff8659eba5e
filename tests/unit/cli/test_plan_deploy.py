"""`galerne plan`: a question on the command line, a ranked answer, a picture and settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from serving.adapters.model_configs import load_model_config
from serving.adapters.settings_loader import load_settings
from serving.cli.main import app
from serving.cli.plan_slo import read_plan_slo
from serving.errors import ConfigError
from serving.planner.hardware import find_gpu
from serving.planner.measured_timing import MeasuredTiming, measured_model
from serving.planner.replica_plan import ReplicaQuestion
from serving.settings.platform import Settings
from serving.settings.simulator import TimingSettings

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(2)
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    rows = [
        {"at_s": at_s, "prompt_tokens": int(prompt), "output_tokens": int(output)}
        for at_s, prompt, output in zip(
            np.sort(rng.uniform(0, 60, 600)),
            rng.integers(100, 3000, 600),
            rng.integers(20, 200, 600),
            strict=True,
        )
    ]
    rows.append({"at_s": 61.0, "prompt_tokens": 50_000, "output_tokens": 10})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan(trace: Path, *words: object, model: str = "mistral-7b-v0.1") -> Result:
    asked = ["plan", "--model", model, "--gpu", "H100-80G", "--trace", str(trace)]
    return RUNNER.invoke(app, [*asked, *map(str, words)])


def document(found: Result) -> Any:
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def refused(found: Result) -> ConfigError:
    assert isinstance(found.exception, ConfigError), found.output
    return found.exception


def test_the_answer_as_json(trace: Path) -> None:
    found = document(plan(trace, "--ttft-s", 1, "--itl-s", 0.05, "--top", 3, "--json"))
    assert (found["requests"], found["requests_left_out"]) == (600, 1)
    assert found["slo"] == {"ttft_s": 1.0, "itl_s": 0.05, "ratio": 0.99}
    assert found["timing"] == "roofline"
    assert len(found["deployments"]) == 3
    best = found["deployments"][0]
    assert best["gpus"] == best["replicas"] * best["tensor_parallel_size"]
    assert best["spare_replicas"] == 1
    assert 0 < best["ttft_s"]["p50"] < best["ttft_s"]["p99"] <= 1.0
    assert 0 < best["itl_s"]["p50"] < best["itl_s"]["p99"] <= 0.051
    assert 0 < best["kv_used_ratio"] < best["kv_peak_ratio"] < 1
    assert found["window_saving"]["full"]["sequences"] < best["max_concurrency"]


def test_no_price_no_cost(trace: Path) -> None:
    found = document(plan(trace, "--json"))
    assert not any("cost" in name for row in found["deployments"] for name in row)


def test_the_cost_is_the_prices(trace: Path) -> None:
    best = document(plan(trace, "--price", 2.5, "--json"))["deployments"][0]
    assert best["cost_per_hour"] == 2.5 * best["gpus"]
    tokens = 600 * (1550 + 110) / 61 * 3600
    expected = best["cost_per_hour"] / tokens * 1e6
    assert best["cost_per_million_tokens"] == pytest.approx(expected, rel=0.05)


def test_a_price_comes_from_the_settings(trace: Path, tmp_path: Path) -> None:
    config = tmp_path / "galerne.yaml"
    config.write_text("preset: sim\nplanner: {gpu_prices: {h100-80g: 4, L4: 1}}\n")
    best = document(plan(trace, "--config", config, "--json"))["deployments"][0]
    assert best["cost_per_hour"] == 4 * best["gpus"]


def test_a_price_of_no_known_gpu_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "galerne.yaml"
    config.write_text("preset: sim\nplanner: {gpu_prices: {h100: 2}}\n")
    error = refused(plan(tmp_path / "no-trace.jsonl", "--config", config))
    assert (error.code, error.param) == ("gpu_unknown", "planner.gpu_prices.h100")


def test_a_table_for_people(trace: Path) -> None:
    found = plan(trace, "--price", 2.5)
    assert found.exit_code == 0, found.output
    assert "COST/M" in found.stdout
    assert max(map(len, found.stdout.splitlines())) <= 80
    assert "1 of 601 requests are longer than 32,768 tokens" in found.stderr
    assert "with full attention" in found.stderr


def test_a_gpu_that_ray_takes_for_another_is_told(trace: Path) -> None:
    printed = " ".join(plan(trace, "--gpu", "A100-80G", "--top", 1).output.split())
    assert "A100-80G: Ray calls it A100, and A100-40G too" in printed


def test_nothing_keeps_an_slo_out_of_reach(trace: Path) -> None:
    found = plan(trace, "--itl-s", 0.001)
    assert found.exit_code == 1
    assert "no deployment keeps the SLO" in found.stderr
    assert "even on an idle replica" in found.stderr


def test_the_slo_of_a_load_test(trace: Path, tmp_path: Path) -> None:
    slo = tmp_path / "slo.yaml"
    slo.write_text("request: {ttft_ms: 1500, tpot_ms: 60, latency_ms: 9000}\ngoodput_rps: 3\n")
    found = plan(trace, "--slo", slo, "--json")
    assert document(found)["slo"] == {"ttft_s": 1.5, "itl_s": 0.06, "ratio": 0.99}
    assert "not planned for: goodput_rps, latency_ms" in found.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("percentiles: {ttft_ms: {p99: 700}, itl_ms: {p99: 40}}", (0.7, 0.04, 0.99)),
        ("request: {itl_ms: 40}\nattainment_ratio: 0.9", (float("inf"), 0.04, 0.9)),
        ("request: {itl_ms: 40, tpot_ms: 20, ttft_ms: 1000}", (1.0, 0.04, 0.99)),
    ],
)
def test_limits_of_an_slo_file(
    tmp_path: Path, text: str, expected: tuple[float, float, float]
) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text(text)
    found = read_plan_slo(path, ttft_s=None, itl_s=None)
    assert (found.ttft_s, found.itl_s, found.ratio) == expected


def test_without_a_limit_of_ttft_every_request_is_still_answered(
    trace: Path, tmp_path: Path
) -> None:
    slo = tmp_path / "slo.yaml"
    slo.write_text("request: {itl_ms: 100}\nattainment_ratio: 0.9\n")
    found = plan(trace, "--slo", slo, "--json")
    assert document(found)["slo"] == {"ttft_s": None, "itl_s": 0.1, "ratio": 0.9}
    assert "Infinity" not in found.stdout
    assert all(row["ttft_s"]["p50"] < 60 for row in document(found)["deployments"])


@pytest.mark.parametrize("option", ["--price", "--ttft-s", "--itl-s"])
def test_numbers_that_are_not_finite_are_refused(trace: Path, option: str) -> None:
    error = refused(plan(trace, option, "inf"))
    assert (error.code, error.param) == ("option_invalid", option)


def test_options_beat_the_slo_file(tmp_path: Path) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text("request: {ttft_ms: 1000, itl_ms: 40}")
    assert read_plan_slo(path, ttft_s=3.0, itl_s=None).ttft_s == 3.0


def test_an_slo_file_without_latencies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "slo.yaml"
    path.write_text("goodput_rps: 3")
    with pytest.raises(ConfigError, match="neither the time to the first token"):
        read_plan_slo(path, ttft_s=None, itl_s=None)


def test_a_picture_is_drawn(trace: Path, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    assert plan(trace, "--picture", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_another_kind_is_refused_before_work(tmp_path: Path) -> None:
    error = refused(plan(tmp_path / "no-trace.jsonl", "--picture", tmp_path / "plan.txt"))
    assert (error.code, error.param) == ("picture_invalid", "--picture")


def test_settings_are_written_though_the_picture_cannot_be(trace: Path, tmp_path: Path) -> None:
    written, picture = tmp_path / "planned.yaml", tmp_path / "plan.png"
    picture.symlink_to(tmp_path / "nowhere" / "plan.png")
    error = refused(plan(trace, "--picture", picture, "--apply", written, model="demo"))
    assert (error.code, error.param) == ("not_written", "--picture")
    assert written.exists()


def test_the_region_is_drawn_where_nothing_keeps_the_slo(trace: Path, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    assert plan(trace, "--itl-s", 0.001, "--picture", picture).exit_code == 1
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("option", "name", "code"),
    [
        ("--picture", "nowhere/plan.png", "not_written"),
        ("--apply", "nowhere/planned.yaml", "not_written"),
        ("--picture", "mine.png", "file_exists"),
        ("--apply", "planned.yaml", "weights_unknown"),
    ],
)
def test_what_cannot_be_written_is_known_before_work(
    tmp_path: Path, option: str, name: str, code: str
) -> None:
    (tmp_path / "mine.png").write_text("mine")
    error = refused(plan(tmp_path / "no-trace.jsonl", option, tmp_path / name))
    assert (error.code, error.param) == (code, option)


def test_the_best_becomes_settings(trace: Path, tmp_path: Path) -> None:
    config, written = tmp_path / "galerne.yaml", tmp_path / "planned.yaml"
    config.write_text(
        "models:\n"
        "  m:\n"
        "    weights: {source: /models/mistral}\n"
        "    engine: {tokenizer_mode: mistral, max_num_seqs: 8}\n"
        "endpoint: {port: 9000}\n"
    )
    words = ["--config", config, "--apply", written, "--kv-dtype", "fp8", "--ttft-s", 1, "--json"]
    best = document(plan(trace, *words))["deployments"][0]
    settings = load_settings(preset=None, config=written, environ={}, overrides=())
    model = settings.models["m"]
    engine = model.engine
    assert (settings.endpoint.port, engine.tokenizer_mode) == (9000, "mistral")
    assert model.weights is not None
    assert model.weights.source == "/models/mistral"
    assert model.replicas == best["replicas"]
    for name in ("tensor_parallel_size", "max_num_batched_tokens", "max_num_seqs"):
        assert getattr(engine, name) == best[name]
    assert engine.extra_args == {"kv-cache-dtype": "fp8"}
    assert (model.resources.accelerator_type, model.slo.ttft_s) == ("H100", 1.0)
    # What cannot be in time is refused: otherwise nothing is in time once more comes than planned.
    assert settings.gateway.queue_timeout_s == 0.5


def test_a_folder_becomes_settings_by_itself(trace: Path, tmp_path: Path) -> None:
    folder, written = tmp_path / "my-model", tmp_path / "planned.yaml"
    folder.mkdir()
    sizes = {"dim": 2048, "n_layers": 16, "n_heads": 16, "n_kv_heads": 8, "hidden_dim": 8192}
    (folder / "params.json").write_text(json.dumps(sizes | {"vocab_size": 32_000}))
    assert plan(trace, "--apply", written, model=str(folder)).exit_code == 0
    settings = Settings.model_validate(yaml.safe_load(written.read_text()))
    assert list(settings.models) == ["my-model"]


def test_a_file_that_is_there_is_left_as_it_is(trace: Path, tmp_path: Path) -> None:
    written = tmp_path / "planned.yaml"
    written.write_text("mine")
    error = refused(plan(trace, "--apply", written, model="demo"))
    assert (error.code, error.param) == ("file_exists", "--apply")
    assert written.read_text() == "mine"


def test_settings_need_to_know_where_the_weights_are(trace: Path, tmp_path: Path) -> None:
    error = refused(plan(trace, "--apply", tmp_path / "planned.yaml"))
    assert error.code == "weights_unknown"


SIZES = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 32_000,
    "max_position_embeddings": 32_768,
}


def settings_of(tmp_path: Path, engine: str, *, more: str = "") -> Path:
    """Settings with a model `m` in a folder of its own."""
    folder, config = tmp_path / "m", tmp_path / "base.yaml"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SIZES))
    model = f"  m: {{weights: {{source: {folder}}}, engine: {engine}}}\n"
    config.write_text(f"models:\n{model}{more}")
    return config


def test_a_model_of_the_settings_is_planned_with_its_options(trace: Path, tmp_path: Path) -> None:
    engine = "{block_size: 32, max_model_len: 8192, extra_args: {kv_cache_dtype: fp8, seed: 1}}"
    other = "  other: {weights: {source: demo}}\n"
    config = settings_of(tmp_path, engine, more=other)
    words = ["--config", config, "--apply", tmp_path / "planned.yaml", "--json"]
    assert document(plan(trace, *words, model="m"))["max_model_len"] == 8192
    written = yaml.safe_load((tmp_path / "planned.yaml").read_text())["models"]
    assert written["m"]["engine"]["block_size"] == 32
    assert written["m"]["engine"]["extra_args"] == {"kv-cache-dtype": "fp8", "seed": 1}
    assert "engine" not in written["other"]


def test_a_kv_type_joins_the_other_arguments(trace: Path, tmp_path: Path) -> None:
    config, written = settings_of(tmp_path, "{extra_args: {seed: 1}}"), tmp_path / "planned.yaml"
    words = ["--config", config, "--apply", written, "--kv-dtype", "fp8"]
    assert plan(trace, *words, model="m").exit_code == 0
    engine = yaml.safe_load(written.read_text())["models"]["m"]["engine"]
    assert engine["extra_args"] == {"seed": 1, "kv-cache-dtype": "fp8"}


def test_a_kv_type_that_is_asked_for_takes_the_place_of_the_settings(
    trace: Path, tmp_path: Path
) -> None:
    config = settings_of(tmp_path, "{extra_args: {kv-cache-dtype: fp8}}")
    written = tmp_path / "planned.yaml"
    words = ["--config", config, "--apply", written, "--kv-dtype", "auto"]
    assert plan(trace, *words, model="m").exit_code == 0
    (model,) = load_settings(preset=None, config=written, environ={}, overrides=()).models.values()
    assert model.engine.extra_args == {"kv-cache-dtype": "auto"}


@pytest.mark.parametrize(
    ("engine", "field"),
    [
        ("{pipeline_parallel_size: 2}", "pipeline_parallel_size"),
        ("{kv_cache_gib: 2}", "kv_cache_gib"),
        ("{dtype: float32}", "dtype"),
        ("{enforce_eager: true}", "enforce_eager"),
        ("{extra_args: {num_gpu_blocks_override: 9}}", "extra_args.num-gpu-blocks-override"),
    ],
)
def test_options_that_are_not_planned_for_are_refused(
    trace: Path, tmp_path: Path, engine: str, field: str
) -> None:
    config, written = settings_of(tmp_path, engine), tmp_path / "planned.yaml"
    error = refused(plan(trace, "--config", config, "--apply", written, model="m"))
    assert (error.code, error.param) == ("engine_option_unplanned", f"models.m.engine.{field}")


def test_a_plan_is_not_written_onto_another_model(trace: Path, tmp_path: Path) -> None:
    config, written = settings_of(tmp_path, "{}"), tmp_path / "planned.yaml"
    error = refused(plan(trace, "--config", config, "--apply", written))
    assert error.code == "model_differs"
    assert "num_heads" in error.message
    assert not written.exists()


@pytest.mark.parametrize(
    ("words", "param"),
    [
        (["--model", "demo"], "--gpu"),
        (["--gpu", "L4"], "--model"),
        (["--model", "demo", "--gpu", "L4"], "--trace"),
    ],
)
def test_what_is_missing_is_named(words: list[str], param: str) -> None:
    error = refused(RUNNER.invoke(app, ["plan", *words]))
    assert (error.code, error.param) == ("option_missing", param)


def calibration(folder: Path, model: str, gpu: str, timing: dict[str, float]) -> Path:
    """As an engine of that model on that GPU was measured."""
    question = ReplicaQuestion(load_model_config(model), find_gpu(gpu), 1)
    measured = MeasuredTiming(
        model=measured_model(model, question.roofline(1)),
        gpu=gpu,
        max_num_batched_tokens=2048,
        max_num_seqs=256,
        timing=TimingSettings.model_validate(timing),
    )
    path = folder / "measured.yaml"
    path.write_text(yaml.safe_dump(measured.model_dump(mode="json")))
    return path


@pytest.mark.parametrize(
    ("model", "gpu"), [("mistral-7b-v0.1", "L4"), ("mistral-small-3.1-24b", "H100-80G")]
)
def test_a_calibration_of_another_engine_is_refused(
    trace: Path, tmp_path: Path, model: str, gpu: str
) -> None:
    error = refused(plan(trace, "--calibration", calibration(tmp_path, model, gpu, {})))
    assert (error.code, error.param) == ("calibration_invalid", "--calibration")
    assert gpu in error.message if gpu == "L4" else model in error.message


def test_a_calibration_that_is_not_there_is_named(trace: Path) -> None:
    error = refused(plan(trace, "--calibration", "/nowhere.yaml"))
    assert (error.code, error.param) == ("calibration_invalid", "--calibration")


def test_a_calibration_takes_the_rooflines_place(trace: Path, tmp_path: Path) -> None:
    timing = {"step_s": 0.012, "prefill_tokens_per_s": 20_000}
    path = calibration(tmp_path, "mistral-7b-v0.1", "H100-80G", timing)
    found = document(plan(trace, "--calibration", path, "--json", "--itl-s", 1, "--ttft-s", 10))
    assert found["timing"] == "calibration"
    for row in found["deployments"]:
        if row["tensor_parallel_size"] == 1:
            assert row["timing"]["step_s"] == pytest.approx(0.012)


def test_kv_and_calibrate_stay_commands_of_their_own() -> None:
    words = ["plan", "kv", "--config", "demo", "--kv-bytes", "1GiB", "--json"]
    assert document(RUNNER.invoke(app, words))["num_blocks"] > 0
    assert RUNNER.invoke(app, ["plan", "calibrate", "--help"]).exit_code == 0
    assert "--trace" in RUNNER.invoke(app, ["plan"]).output
