"""The pure parts of the demo model's build, and its failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.adapters import demo_model
from serving.adapters.manifest import write_manifest
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import demo_folder
from serving.errors import ConfigError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "hidden_size": 576,
    "mlp_bias": False,
    "model_type": "llama",
    "pretraining_tp": 1,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
}


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.of(tmp_path / "state", tmp_path / "cache")


def test_a_llama_config_becomes_a_sliding_window_mistral() -> None:
    assert demo_model.to_mistral_config(LLAMA) == {
        "architectures": ["MistralForCausalLM"],
        "hidden_size": 576,
        "model_type": "mistral",
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
        "sliding_window": 512,
    }


def test_a_finished_folder_is_used_as_it_is(paths: StatePaths) -> None:
    folder = demo_folder(paths)
    folder.mkdir(parents=True)
    write_manifest(folder)
    assert demo_model.prepare_demo(paths) == folder


def test_another_checksum_is_refused_by_file_name(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"something else")
    with pytest.raises(ConfigError, match=r"^model\.gguf ") as caught:
        demo_model.require_sha256(file, demo_model.GGUF_SHA256)
    assert caught.value.code == "demo_model_mismatch"


def test_a_full_disk_is_told_before_the_build(tmp_path: Path) -> None:
    demo_model.require_space(tmp_path, 1)
    with pytest.raises(ConfigError) as caught:
        demo_model.require_space(tmp_path, 2**62)
    assert caught.value.code == "disk_full"
    assert "GALERNE_CACHE_DIR" in caught.value.hint


def test_an_unusable_cache_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ConfigError) as caught:
        demo_model.prepare_demo(StatePaths.of(tmp_path / "state", tmp_path / "cache"))
    assert caught.value.code == "model_cache_unusable"
    assert caught.value.hint
