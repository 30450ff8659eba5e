"""The prefill chunk that suits a window."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.planner.chunk import ChunkChoice, choose_chunk
from serving.planner.engine_device import CPU, GPU, EngineDevice, gpu_device
from serving.planner.kv_cache import KvLayout, LayerGroup


def choice(
    window: int | None,
    *,
    device: EngineDevice = GPU,
    max_model_len: int = 32768,
    max_num_seqs: int = 256,
) -> ChunkChoice:
    layout = KvLayout((LayerGroup(32, device.block_size, window),), bytes_per_block=1)
    return choose_chunk(
        layout, max_model_len=max_model_len, max_num_seqs=max_num_seqs, device=device
    )


@pytest.mark.parametrize(
    ("device", "window", "max_num_seqs", "tokens"),
    [
        (CPU, 512, 64, 256),
        (CPU, 1024, 64, 512),
        (CPU, 1023, 64, 256),
        (CPU, 128, 64, 256),
        (CPU, 512, 300, 512),
        (GPU, 4096, 256, 1024),
        (GPU, 2048, 256, 512),
        (GPU, 128, 256, 512),
        (GPU, 4096, 1024, 1024),
        (gpu_device("L4"), 8192, 256, None),
        (gpu_device("A100"), 8192, 256, None),
        (gpu_device("H100"), 8192, 256, 2048),
        (gpu_device("H100"), 16384, 256, 4096),
        (gpu_device("H100"), 32768, 256, None),
        (gpu_device("B200"), 32768, 256, 8192),
        (gpu_device(None), 8192, 256, 2048),
    ],
)
def test_half_the_window_is_in_flight(
    device: EngineDevice, window: int, max_num_seqs: int, tokens: int | None
) -> None:
    chosen = choice(window, device=device, max_model_len=131072, max_num_seqs=max_num_seqs)
    assert chosen.tokens == tokens


@pytest.mark.parametrize("window", [None, 8192, 32768])
def test_vllms_default_stays_where_it_costs_little(window: int | None) -> None:
    chosen = choice(window)
    assert (chosen.tokens, chosen.gain_ratio) == (None, 1.0)
    assert chosen.reason


def test_short_sequences_gain_nothing() -> None:
    assert choice(512, device=CPU, max_model_len=700, max_num_seqs=64).tokens is None


def test_a_mixture_gains_what_its_windows_do() -> None:
    groups = (LayerGroup(9, 16, None), *[LayerGroup(9, 16, 1024)] * 3)
    layout = KvLayout(groups, bytes_per_block=1)
    short = choose_chunk(layout, max_model_len=8192, max_num_seqs=256, device=GPU)
    assert short.tokens == 512
    assert 1.5 < short.gain_ratio < 2.5
    long = choose_chunk(layout, max_model_len=131072, max_num_seqs=256, device=GPU)
    assert long.tokens is None


def test_the_gain_is_over_the_default_of_the_gpu() -> None:
    small, large = (choice(4096, device=gpu_device(name)) for name in ("L40S", "H200"))
    assert small.tokens == large.tokens == 1024
    assert (round(small.gain_ratio, 2), round(large.gain_ratio, 2)) == (1.33, 3.33)
    assert "not 4,096" in small.reason
    assert "not 16,384" in large.reason


@settings(deadline=None)
@given(
    st.integers(1, 100_000),
    st.sampled_from([CPU, GPU, *map(gpu_device, ("H100", "B200", None))]),
    st.integers(16, 200_000),
    st.integers(1, 4096),
)
def test_a_choice_is_one_that_vllm_takes_and_that_pays(
    window: int, device: EngineDevice, max_model_len: int, max_num_seqs: int
) -> None:
    chosen = choice(window, device=device, max_model_len=max_model_len, max_num_seqs=max_num_seqs)
    if chosen.tokens is not None:
        assert max(max_num_seqs, device.min_chunk_tokens) <= chosen.tokens
        assert chosen.tokens < device.default_chunk_tokens
        assert chosen.gain_ratio >= 1.1
