"""What `galerne up` tells of the planner's choices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving.adapters.model_configs import complete_settings
from serving.adapters.state_paths import StatePaths
from serving.cli.planned import planned
from serving.settings.platform import Settings

MISTRAL = {
    "model_type": "mistral", "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 100,
    "max_position_embeddings": 4096, "sliding_window": 512,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL))
    return tmp_path


def settings(folder: Path, **engine: Any) -> Settings:
    model = {"weights": {"source": str(folder)}, "resources": {"device": "cpu"}, "engine": engine}
    return Settings.model_validate({"models": {"mine": model}})


def lines(asked: Settings, folder: Path) -> list[str]:
    return list(planned(asked, StatePaths.of(folder / "state", folder / "cache")))


def test_a_line_for_each_choice(folder: Path) -> None:
    (line,) = lines(settings(folder), folder)
    assert line.startswith("mine: prompts in chunks of 256 tokens: ")


def test_the_replica_fills_in_what_was_told(folder: Path) -> None:
    model = settings(folder).models["mine"]
    assert complete_settings("mine", model, folder).engine.max_num_batched_tokens == 256


def test_settings_are_not_told_back(folder: Path) -> None:
    asked = settings(folder, max_num_batched_tokens=300)
    assert lines(asked, folder) == []
    assert complete_settings("mine", asked.models["mine"], folder) == asked.models["mine"]


def test_a_model_that_only_vllm_understands_runs_with_its_defaults(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "jamba"}))
    asked = settings(folder)
    assert lines(asked, folder) == []
    assert complete_settings("mine", asked.models["mine"], folder) == asked.models["mine"]


def test_weights_elsewhere_and_simulated_engines_are_left_to_their_replicas(folder: Path) -> None:
    hub = {"weights": {"source": "mistralai/Mistral-7B-v0.1", "revision": "a" * 40}}
    models = {"hub": hub, "sim": {"simulator": {"sliding_window": 512}}}
    assert lines(Settings.model_validate({"models": models}), folder) == []
