"""The KV arithmetic, on figures worked out by hand and on what must hold for all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ConfigError
from serving.planner.engine_device import CPU, GPU, EngineDevice
from serving.planner.kv_cache import (
    KvLayout,
    KvOptions,
    LayerGroup,
    Lengths,
    kv_layout,
    plan_kv_cache,
)
from serving.planner.model_config import Latent, ModelConfig

GIB = 1024**3
MODEL = ModelConfig(
    windows=(None,) * 32, num_heads=32, num_kv_heads=8, head_size=128, hidden_size=4096,
    intermediate_size=14336, vocab_size=32000, max_model_len=32768, tie_embeddings=False,
)  # fmt: skip
LATENT = replace(
    MODEL, num_kv_heads=1, head_size=576, latent=Latent(512, 64, 128, 128, q_lora_rank=None)
)


def layout(model: ModelConfig = MODEL, *, device: EngineDevice = GPU, **options: Any) -> KvLayout:
    return kv_layout(model, KvOptions(**options), device=device)


def refusal(**options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as refused:
        layout(**options)
    assert refused.value.hint
    return refused.value


@pytest.mark.parametrize("block_size", [None, 64, 128])
def test_latent_attention_on_a_cpu_takes_blocks_of_one_size_whatever_is_asked(
    block_size: int | None,
) -> None:
    assert layout(LATENT, device=CPU, block_size=block_size).groups[0].block_size == 16


@pytest.mark.parametrize(
    ("options", "bytes_per_block"),
    [
        # keys and values, 8 heads of 128 elements of 2 bytes, 16 tokens, 32 layers
        ({}, 2 * 8 * 128 * 2 * 16 * 32),
        ({"dtype": "float32"}, 2 * 8 * 128 * 4 * 16 * 32),
        ({"dtype": "float32", "kv_dtype": "fp8"}, 2 * 8 * 128 * 1 * 16 * 32),
        ({"kv_dtype": "bfloat16"}, 2 * 8 * 128 * 2 * 16 * 32),
        ({"block_size": 64}, 2 * 8 * 128 * 2 * 64 * 32),
        ({"device": CPU}, 2 * 8 * 128 * 2 * 128 * 32),
        ({"tensor_parallel_size": 4}, 2 * 2 * 128 * 2 * 16 * 32),
        ({"tensor_parallel_size": 32}, 2 * 1 * 128 * 2 * 16 * 32),
    ],
)
def test_bytes_of_a_block_on_each_gpu(options: dict[str, Any], bytes_per_block: int) -> None:
    assert layout(**options).bytes_per_block == bytes_per_block


def test_latent_attention_is_not_divided() -> None:
    shared = layout(LATENT, block_size=64, tensor_parallel_size=8)
    assert shared.bytes_per_block == 576 * 2 * 64 * 32
    assert layout(LATENT, device=CPU).groups == (LayerGroup(32, 16, None),)


@pytest.mark.parametrize(
    ("windows", "sizes"),
    [
        ((None, 8, 8, 8) * 9, [9, 9, 9, 9]),
        ((None,) * 12 + (8,) * 13, [12, 13]),
        ((None,) * 10 + (8,) * 15, [10, 8, 7]),
        ((None,) * 10 + (8,) * 25, [10, 9, 8, 8]),
        ((8,) * 5, [5]),
        ((8,) * 4 + (None,), [1, 1, 1, 1, 1]),
    ],
)
def test_layers_of_a_kind_are_split_into_groups_of_the_rarest_kind(
    windows: tuple[int | None, ...], sizes: list[int]
) -> None:
    groups = layout(replace(MODEL, windows=windows)).groups
    assert [group.num_layers for group in groups] == sizes


def test_a_mistral_of_windows_by_hand() -> None:
    """4,095 tokens of window and two chunks of 1,024 are 384 blocks, and one more."""
    model = replace(MODEL, windows=(4096,) * 32)
    plan = plan_kv_cache(layout(model), Lengths(32768, in_flight=2048), kv_bytes=40 * GIB)
    assert plan.num_blocks == 20480
    assert plan.max_concurrency == 20480 / 385
    assert plan.kv_cache_tokens == 20480 * 32768 // 385


@pytest.mark.parametrize(
    ("windows", "asked", "taken"),
    [
        ((None,), 64, 64),
        ((8,), 16, 32),
        ((8,), 48, 32),
        ((8,), 100, 96),
        ((None, 8), 16, 32),
        ((None, 8), 96, 96),
    ],
)
def test_windows_round_their_blocks_to_the_kernels(
    windows: tuple[int | None, ...], asked: int, taken: int
) -> None:
    groups = layout(replace(MODEL, windows=windows), device=CPU, block_size=asked).groups
    assert {group.block_size for group in groups} == {taken}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"device": CPU, "block_size": 16}, "block_size"),
        ({"device": CPU, "block_size": 48}, "block_size"),
        ({"model": replace(MODEL, windows=(None, 8)), "block_size": 40}, "block_size"),
        ({"model": LATENT}, "block_size"),
        ({"kv_dtype": "nvfp4"}, "kv_dtype"),
        ({"model": replace(MODEL, quantizes_kv_cache=True)}, "kv_dtype"),
        ({"tensor_parallel_size": 3}, "tensor_parallel_size"),
        ({"tensor_parallel_size": 64}, "tensor_parallel_size"),
        ({"model": replace(MODEL, num_kv_heads=6, num_heads=24), "tensor_parallel_size": 4},
         "tensor_parallel_size"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_named(options: dict[str, Any], param: str) -> None:
    assert refusal(**options).param == param


def test_a_cache_too_small_for_one_sequence_says_what_it_takes() -> None:
    demo = KvLayout((LayerGroup(30, 128, 512),), 2_949_120)
    lengths = Lengths(4096, in_flight=256)
    assert plan_kv_cache(demo, lengths, kv_bytes=8 * 2_949_120).num_blocks == 8
    with pytest.raises(ConfigError, match="23,592,960") as refused:
        plan_kv_cache(demo, lengths, kv_bytes=8 * 2_949_120 - 1)
    assert refused.value.code == "kv_cache_too_small"


models = st.builds(
    replace,
    st.just(MODEL),
    windows=st.lists(st.sampled_from([None, 64, 512]), min_size=1, max_size=40).map(tuple),
    num_kv_heads=st.sampled_from([1, 2, 8]),
    head_size=st.sampled_from([64, 128]),
)
layouts = st.builds(
    lambda model, device, block_size: layout(model, device=device, block_size=block_size),
    models,
    st.sampled_from([CPU, GPU]),
    st.sampled_from([None, 32, 64, 256]),
)
lengths = st.builds(Lengths, st.integers(1, 100_000), in_flight=st.integers(1, 20_000))


def enough(shape: KvLayout, bounds: Lengths) -> int:
    return (shape.blocks_per_sequence(bounds) + 1) * shape.bytes_per_block


@settings(deadline=None)
@given(layouts, lengths, st.integers(0, 10**12), st.integers(0, 10**12))
def test_more_memory_is_never_less_room(
    shape: KvLayout, bounds: Lengths, more: int, still_more: int
) -> None:
    least = enough(shape, bounds)
    plan = plan_kv_cache(shape, bounds, kv_bytes=least + more)
    larger = plan_kv_cache(shape, bounds, kv_bytes=least + more + still_more)
    assert plan.num_blocks * plan.bytes_per_block <= least + more
    assert plan.max_concurrency > 1
    assert larger.num_blocks >= plan.num_blocks
    assert larger.kv_cache_tokens >= plan.kv_cache_tokens


@settings(deadline=None)
@given(layouts, lengths)
def test_a_smaller_chunk_never_takes_more(shape: KvLayout, bounds: Lengths) -> None:
    smaller = replace(bounds, in_flight=max(bounds.in_flight // 2, 1))
    assert shape.blocks_per_sequence(smaller) <= shape.blocks_per_sequence(bounds)


@settings(deadline=None)
@given(st.integers(1, 50_000), st.integers(1, 20_000), st.integers(0, 20_000))
def test_a_window_as_long_as_the_sequence_is_full_attention_and_a_block(
    longest: int, in_flight: int, more: int
) -> None:
    bounds = Lengths(longest, in_flight=in_flight)
    full = LayerGroup(1, 16, None).blocks_per_sequence(bounds)
    assert LayerGroup(1, 16, longest + more).blocks_per_sequence(bounds) == full + 1


@settings(deadline=None)
@given(layouts)
def test_without_windows_the_layers_and_their_bytes_stay(shape: KvLayout) -> None:
    full = shape.without_windows()
    (group,) = full.groups
    assert group.num_layers == sum(part.num_layers for part in shape.groups)
    assert full.bytes_per_block >= shape.bytes_per_block
