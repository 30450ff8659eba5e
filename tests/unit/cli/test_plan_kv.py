"""`galerne plan kv` as people and programs call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli.main import app
from serving.cli.plan_kv import parse_bytes
from serving.errors import ConfigError

DEMO = ("plan", "kv", "--config", "demo", "--max-model-len", "4096")


def run(*words: str) -> str:
    result = CliRunner().invoke(app, [*DEMO, *words])
    assert result.exit_code == 0, result.exception
    return result.stdout


def refusal(*words: str) -> ConfigError:
    error = CliRunner().invoke(app, [*DEMO, *words]).exception
    assert isinstance(error, ConfigError)
    return error


@pytest.mark.parametrize(
    ("chunk_tokens", "kv_cache_tokens", "max_concurrency"),
    [("256", 212992, 52.0), ("2048", 70997, 17.33), ("4096", 45180, 11.03)],
)
def test_the_demo_model_as_vllm_reports_it(
    chunk_tokens: str, kv_cache_tokens: int, max_concurrency: float
) -> None:
    printed = run("--kv-bytes", "1GiB", "--chunk-tokens", chunk_tokens, "--json")
    assert json.loads(printed) == {
        "bytes_per_block": 2949120,
        "num_blocks": 364,
        "kv_cache_tokens": kv_cache_tokens,
        "max_concurrency": max_concurrency,
    }


def test_without_a_chunk_it_is_the_one_that_up_chooses() -> None:
    assert json.loads(run("--kv-bytes", "1073741824", "--json"))["max_concurrency"] == 52.0


def test_people_read_what_the_window_saves_and_could_save() -> None:
    printed = " ".join(run("--kv-bytes", "1GiB", "--chunk-tokens", "2048").split())
    assert "17.33 of 4,096 tokens" in printed
    assert "if full 11.38 sequences" in printed
    assert "could be 52.00 sequences, in chunks of 256 tokens" in printed
    assert "if full not one sequence" in " ".join(run("--kv-bytes", "40MiB").split())


def test_groups_of_a_kind_are_counted() -> None:
    words = ["plan", "kv", "--config", "ministral-8b-2410", "--kv-bytes", "40GiB"]
    printed = CliRunner().invoke(app, words).stdout
    assert "9 that see all; 3 x 9 that see 32,768 tokens" in printed


def test_full_attention_runs_with_the_default_of_the_gpu() -> None:
    full = ["plan", "kv", "--config", "mistral-7b-v0.3", "--kv-bytes", "20GiB"]
    for words, chunk in (
        (["--gpu", "h200"], "8,192 tokens, 2 in flight on gpu\n"),
        (["--gpu", "L4"], "2,048 tokens, 2 in flight on gpu\n"),
        (["--device", "gpu"], "8,192 tokens, 2 in flight on gpu (vLLM's default from 70 GiB,"),
    ):
        printed = CliRunner().invoke(app, [*full, *words]).stdout
        assert chunk in "\n".join(line.rstrip() for line in printed.splitlines()) + "\n"


@pytest.mark.parametrize("amount", ["", "0", "x", "1GiBB", "-1", "1e400", "nan", "12 apples"])
def test_what_is_no_amount_of_memory_is_refused(amount: str) -> None:
    assert refusal("--kv-bytes", amount).param == "kv_bytes"


@pytest.mark.parametrize("amount", ["1e300", "1e16", "1025TiB"])
def test_more_memory_than_there_is_is_refused(amount: str) -> None:
    assert "more memory than any GPU" in str(refusal("--kv-bytes", amount))
    assert parse_bytes("1024TiB") == 1 << 50


def test_amounts_of_memory() -> None:
    amounts = ("1024", "1KiB", "1 Ki", "2.5MB", "3 GB", "1e9")
    assert [parse_bytes(text) for text in amounts] == [
        1024, 1024, 1024, 2_500_000, 3_000_000_000, 1_000_000_000,
    ]  # fmt: skip


def test_longer_than_the_model_is_refused() -> None:
    assert refusal("--max-model-len", "8193", "--kv-bytes", "1GiB").param == "max_model_len"


def test_a_file_of_unknown_attention_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "jamba"}))
    error = refusal("--config", str(path), "--kv-bytes", "1GiB")
    assert (error.code, error.param) == ("model_config_unknown", "model_type")
