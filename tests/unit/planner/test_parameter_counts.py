"""Counted parameters are those that the checkpoints have."""

from __future__ import annotations

import pytest

from serving.adapters.model_configs import load_model_config
from serving.planner.parameters import count_parameters


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("demo", 134_515_008, 134_515_008),
        ("mistral-7b-v0.1", 7_241_732_096, 7_241_732_096),
        ("mistral-7b-v0.3", 7_248_023_552, 7_248_023_552),
        ("ministral-8b-2410", 8_019_808_256, 8_019_808_256),
        ("mistral-nemo-12b", 12_247_782_400, 12_247_782_400),
        ("mistral-small-3.1-24b", 23_572_403_200, 23_572_403_200),
        ("mixtral-8x7b-v0.1", 46_702_792_704, 12_879_925_248),
    ],
)
def test_published_counts(name: str, total: int, active: int) -> None:
    counted = count_parameters(load_model_config(name))
    assert (counted.total, counted.active) == (total, active)


def test_latent_attention_lacks_only_the_biases_of_its_router() -> None:
    """DeepSeek-V3's model card: 671B in all, 37B for a token."""
    counted = count_parameters(load_model_config("deepseek-v3"))
    assert 671_026_419_200 - counted.total == 58 * 256
    assert counted.active == pytest.approx(37e9, rel=0.02)
