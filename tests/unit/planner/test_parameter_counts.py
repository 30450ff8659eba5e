"""Counted parameters are those that the checkpoints have."""

from __future__ import annotations

from typing import Any

import pytest

from serving.adapters.model_configs import load_model_config
from serving.planner.mistral_params import to_hugging_face
from serving.planner.model_config import read_model_config
from serving.planner.parameters import count_parameters


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("demo", 134_515_008, 134_515_008),
        ("mistral-7b-v0.1", 7_241_732_096, 7_241_732_096),
        ("mistral-7b-v0.3", 7_248_023_552, 7_248_023_552),
        ("ministral-8b-2410", 8_019_808_256, 8_019_808_256),
        ("mistral-nemo-12b", 12_247_782_400, 12_247_782_400),
        ("mistral-small-3.1-24b", 24_011_361_280, 23_572_403_200),
        ("mixtral-8x7b-v0.1", 46_702_792_704, 12_879_925_248),
    ],
)
def test_published_counts(name: str, total: int, active: int) -> None:
    counted = count_parameters(load_model_config(name))
    assert (counted.total, counted.active) == (total, active)


NEMO: dict[str, Any] = {
    "dim": 5120, "n_layers": 40, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128,
    "hidden_dim": 14336, "vocab_size": 131072,
}  # fmt: skip
ENCODER = {
    "hidden_size": 1024, "num_channels": 3, "image_size": 1024, "patch_size": 16,
    "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "rope_theta": 10000.0, "image_token_id": 10,
}  # fmt: skip


@pytest.mark.parametrize(
    "named", [{"vision_encoder": ENCODER}, {"multimodal": {"vision_encoder_args": ENCODER}}]
)
def test_a_vision_tower_in_mistrals_own_format(named: dict[str, Any]) -> None:
    """Pixtral 12B: two matrices join the tower to the language model."""
    tower = 24 * (4 * 1024**2 + 3 * 1024 * 4096 + 2048) + 3 * 16**2 * 1024 + 1024
    counted = count_parameters(read_model_config(NEMO | named))
    assert counted.vision == tower + 5120 * (1024 + 5120)
    assert counted.total - counted.vision == count_parameters(read_model_config(NEMO)).total
    assert counted.active == counted.total - counted.vision


def test_towers_without_gates_have_two_matrices_a_layer() -> None:
    """LLaVA 1.5's: OpenAI's CLIP ViT-L/14 has 303 million parameters, the join 21 million."""
    text = NEMO | {"dim": 4096}
    wrapped = {"model_type": "llava", "text_config": to_hugging_face(text)}
    vision = count_parameters(read_model_config(wrapped)).vision
    assert vision == pytest.approx(303e6 + 21e6, rel=0.01)


def test_latent_attention_lacks_only_the_biases_of_its_router() -> None:
    """DeepSeek-V3's model card: 671B in all, 37B for a token."""
    counted = count_parameters(load_model_config("deepseek-v3"))
    assert 671_026_419_200 - counted.total == 58 * 256
    assert counted.active == pytest.approx(37e9, rel=0.02)
