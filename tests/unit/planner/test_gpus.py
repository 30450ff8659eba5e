"""GPUs are found by name, bear names that Ray knows, and have figures that agree."""

from __future__ import annotations

import pytest
from ray.util.accelerators import accelerators

from serving.errors import ConfigError
from serving.planner.hardware import GPUS, Gpu, find_gpu


def test_upper_and_lower_case_are_the_same() -> None:
    assert find_gpu("l40s") is GPUS["L40S"]


def test_an_unknown_gpu_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no GPU 'H1000'") as caught:
        find_gpu("H1000")
    assert "H100-80G" in (caught.value.hint or "")


def test_ray_knows_each() -> None:
    known = {value for name, value in vars(accelerators).items() if name.startswith("NVIDIA_")}
    assert {gpu.accelerator_type for gpu in GPUS.values()} <= known


def test_nodes_offer_each_without_labels_given_by_hand() -> None:
    """Ray takes the model from the driver's name of a GPU, and leaves its memory out."""
    by_hand = {accelerators.NVIDIA_A100_40G, accelerators.NVIDIA_A100_80G}
    assert by_hand.isdisjoint(gpu.accelerator_type for gpu in GPUS.values())


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_figures_of_a_gpu_are_of_dense_matrices_and_plausible(gpu: Gpu) -> None:
    assert 20 << 30 < gpu.memory_bytes < 200 << 30
    # Every one computes for longer than it reads, from 50 to 450 operations a byte on.
    assert 50 < gpu.flops_16_bit / gpu.memory_bytes_per_s < 450
    assert gpu.flops_8_bit is None or 1.9 < gpu.flops_8_bit / gpu.flops_16_bit < 2.1
    assert gpu.link_bytes_per_s < gpu.memory_bytes_per_s
