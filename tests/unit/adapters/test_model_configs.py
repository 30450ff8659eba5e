"""Configurations by name and from files."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from serving.adapters.model_configs import bundled_models, load_model_config, read_folder
from serving.errors import ConfigError
from serving.planner.quantization import BITS_16, FP8

HF = {
    "model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64,
    "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 512,
}  # fmt: skip
PARAMS = {
    "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "dim": 64, "hidden_dim": 128, "vocab_size": 100,
}  # fmt: skip


@pytest.mark.parametrize("name", bundled_models())
def test_every_bundled_model_says_where_it_comes_from_and_can_be_read(name: str) -> None:
    path = resources.files("serving") / "planner" / "models" / f"{name}.json"
    assert len(json.loads(path.read_text("utf-8"))["source"]) > 20
    assert load_model_config(name).num_layers > 0


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("demo", (30, 3, 64, {512})),
        ("mistral-7b-v0.1", (32, 8, 128, {4096})),
        ("mistral-7b-v0.3", (32, 8, 128, {None})),
        ("mistral-nemo-12b", (40, 8, 128, {None})),
        ("mistral-small-3.1-24b", (40, 8, 128, {None})),
        ("ministral-8b-2410", (36, 8, 128, {None, 32768})),
        ("mixtral-8x7b-v0.1", (32, 8, 128, {None})),
        ("deepseek-v3", (61, 1, 576, {None})),
    ],
)
def test_bundled_shapes(name: str, shape: tuple[int, int, int, set[int | None]]) -> None:
    model = load_model_config(name)
    found = (model.num_layers, model.num_kv_heads, model.head_size, set(model.windows))
    assert found == shape


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_weights_are_of_16_bits_but_deepseeks(name: str) -> None:
    assert load_model_config(name).weights == (FP8 if name == "deepseek-v3" else BITS_16)


def test_a_file_or_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HF))
    assert load_model_config(str(tmp_path)).num_layers == 2
    assert load_model_config(str(tmp_path / "config.json")).num_layers == 2


@pytest.mark.parametrize(
    ("config_format", "weights", "num_layers"),
    [
        ("auto", "model.safetensors", 2),
        ("auto", "consolidated.safetensors", 3),
        ("hf", "consolidated.safetensors", 2),
        ("mistral", "model.safetensors", 3),
    ],
)
def test_of_two_files_the_one_that_vllm_reads(
    tmp_path: Path, config_format: str, weights: str, num_layers: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HF))
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    (tmp_path / weights).touch()
    assert read_folder(tmp_path, config_format=config_format).num_layers == num_layers


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "model_config_unreadable"),
        (b"\xff", "model_config_unreadable"),
        (b"[1]", "model_config_unreadable"),
        (b"[" * 100_000, "model_config_unreadable"),
        (b"{}", "model_config_invalid"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load_model_config(str(path))
    assert refused.value.code == code


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for source in (str(tmp_path), str(tmp_path / "absent.json"), "mistral-99b"):
        with pytest.raises(ConfigError) as refused:
            load_model_config(source)
        assert refused.value.code == "model_config_not_found"
