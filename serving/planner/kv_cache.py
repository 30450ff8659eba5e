"""How many sequences a paged KV cache holds, exactly as vLLM 0.32 counts them when it starts.

Memory is cut into blocks. Layers of one kind share a block table and form a group, and every group
draws its blocks from the same pool, so a block is as large as the largest group needs. A sequence
of full length takes of each group as many blocks as its layers ever hold at once. Start with
`plan_kv_cache`.

The sizes below hold for a model on its own, with vLLM's hybrid KV-cache manager on (Galerne asks
for it by name) and without speculative decoding. Prefix caching changes none of them: cached blocks
live in the same pool, and make way.

Source: vLLM 0.32: `get_kv_cache_groups`, `get_kv_cache_configs` and `get_kv_cache_capacity` in
vllm/v1/core/kv_cache_utils.py, the specs' `page_size_bytes` and `max_memory_usage_bytes` in
vllm/v1/kv_cache_interface.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from serving.errors import ConfigError
from serving.planner.engine_device import EngineDevice
from serving.planner.model_config import ModelConfig

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
"""By dtype, as vLLM's options name them."""
KV_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")


@dataclass(frozen=True, slots=True)
class KvOptions:
    """vLLM's options of the cache.

    `block_size` is in tokens, `None` for the device's own. `dtype` is the model's.
    `tensor_parallel_size` divides the heads.
    """

    block_size: int | None = None
    kv_dtype: str = "auto"
    dtype: str = "auto"
    tensor_parallel_size: int = 1


@dataclass(frozen=True, slots=True)
class Lengths:
    """What bounds a sequence, in tokens.

    `in_flight` tokens may be scheduled but not finished: a window lets go of what has slid out only
    when the step is done. That is a prefill chunk (`max_num_batched_tokens`) per concurrent step.
    """

    max_model_len: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that share a block table; `block_size` and `window` are in tokens."""

    num_layers: int
    block_size: int
    window: int | None

    def blocks_per_sequence(self, lengths: Lengths) -> int:
        """What a sequence of full length holds at most.

        A window need not begin where a block does, hence one more.

        Source: `FullAttentionSpec.max_memory_usage_bytes`,
        `SlidingWindowSpec.max_admission_blocks_per_request`.

        >>> LayerGroup(1, 128, window=512).blocks_per_sequence(Lengths(4096, in_flight=256))
        7
        >>> LayerGroup(1, 128, window=None).blocks_per_sequence(Lengths(4096, in_flight=256))
        32
        """
        if self.window is None:
            return _ceil_div(lengths.max_model_len, self.block_size)
        num_tokens = min(self.window - 1 + lengths.in_flight, lengths.max_model_len)
        return _ceil_div(num_tokens, self.block_size) + 1


@dataclass(frozen=True, slots=True)
class KvLayout:
    """A model's groups, and the bytes of a block on each GPU."""

    groups: tuple[LayerGroup, ...]
    bytes_per_block: int

    def blocks_per_sequence(self, lengths: Lengths) -> int:
        """Of all groups together."""
        return sum(group.blocks_per_sequence(lengths) for group in self.groups)

    def without_windows(self) -> KvLayout:
        """The same layers if they forgot nothing, which makes them one group."""
        num_layers = sum(group.num_layers for group in self.groups)
        first = self.groups[0]
        per_layer = self.bytes_per_block // max(group.num_layers for group in self.groups)
        group = LayerGroup(num_layers, first.block_size, window=None)
        return KvLayout((group,), per_layer * num_layers)


@dataclass(frozen=True, slots=True)
class KvCachePlan:
    """What vLLM reports at start: blocks (`num_gpu_blocks`, its null block included), "KV cache
    size" in tokens and "Maximum concurrency" in sequences of full length."""

    bytes_per_block: int
    num_blocks: int
    kv_cache_tokens: int
    max_concurrency: float


def plan_kv_cache(layout: KvLayout, lengths: Lengths, *, kv_bytes: int) -> KvCachePlan:
    """The cache that fits into `kv_bytes` of each GPU.

    Raises:
        ConfigError: not even one sequence fits, and vLLM would not start (`kv_cache_too_small`).

    >>> layout = KvLayout((LayerGroup(30, 128, window=512),), bytes_per_block=2_949_120)
    >>> plan_kv_cache(layout, Lengths(4096, in_flight=256), kv_bytes=1024**3)
    KvCachePlan(bytes_per_block=2949120, num_blocks=364, kv_cache_tokens=212992, \
max_concurrency=52.0)
    """
    per_sequence = layout.blocks_per_sequence(lengths)
    num_blocks = kv_bytes // layout.bytes_per_block
    if num_blocks < per_sequence + 1:
        needed_bytes = (per_sequence + 1) * layout.bytes_per_block
        raise ConfigError(
            f"{kv_bytes:,} bytes do not hold one sequence of {lengths.max_model_len:,} tokens, "
            f"which takes {needed_bytes:,}",
            code="kv_cache_too_small",
            param="kv_bytes",
            hint="give the KV cache more memory, or lower max_model_len",
        )
    concurrency = num_blocks / per_sequence
    return KvCachePlan(
        bytes_per_block=layout.bytes_per_block,
        num_blocks=num_blocks,
        kv_cache_tokens=int(concurrency * lengths.max_model_len),
        max_concurrency=concurrency,
    )


def kv_layout(model: ModelConfig, options: KvOptions, *, device: EngineDevice) -> KvLayout:
    """How vLLM lays out the model's cache.

    Raises:
        ConfigError: the options contradict the model or the device, or what `auto` stands for
            cannot be told.
    """
    block_size = _block_size(model, options, device=device)
    page_bytes = _bytes_per_token(model, options) * block_size
    groups = tuple(
        LayerGroup(num_layers, block_size, window)
        for num_layers, window in _group_layers(Counter(model.windows))
    )
    return KvLayout(groups, page_bytes * max(group.num_layers for group in groups))


def _group_layers(num_layers: Counter[int | None]) -> list[tuple[int, int | None]]:
    """Layers of the groups, with their windows.

    One kind is one group. Of several, each is split into groups of the rarest kind's size, unless
    the kinds are of nearly equal number: then each stays whole. What a group has less than the
    largest is padding, paid for by every block.

    Source: `_get_kv_cache_groups_uniform_page_size` in vllm/v1/core/kv_cache_utils.py, vLLM 0.32.

    >>> _group_layers(Counter({None: 9, 32768: 27}))
    [(9, None), (9, 32768), (9, 32768), (9, 32768)]
    >>> _group_layers(Counter({None: 12, 128: 13}))
    [(12, None), (13, 128)]
    """
    fewest, most = min(num_layers.values()), max(num_layers.values())
    group_size = most if most < fewest * 1.5 else fewest
    groups = []
    for window, count in num_layers.items():
        num_groups = _ceil_div(count, group_size)
        groups += [(_ceil_div(count - i, num_groups), window) for i in range(num_groups)]
    return groups


def _block_size(model: ModelConfig, options: KvOptions, *, device: EngineDevice) -> int:
    """Tokens of a block in every layer.

    Window layers round theirs to what the kernel takes; full layers beside them are then given
    blocks of as many bytes, and full layers alone must fit.

    Source: `Attention.get_kv_cache_spec` in vllm/model_executor/layers/attention/attention.py,
    `unify_kv_cache_spec_page_size`, vLLM 0.32; each case has been started.
    """
    if model.latent is not None:
        return _latent_block_size(options, device=device)
    asked = options.block_size or device.block_size
    kernel = device.kernel_block_size
    taken = max(asked // kernel, 1) * kernel
    fits = asked % kernel == 0 or (model.has_window and kernel % asked == 0)
    if None in model.windows and not fits:
        raise ConfigError(
            f"block_size is {asked}; full attention on {device.name} takes multiples of {kernel}",
            code="setting_invalid",
            param="block_size",
            hint=f"leave it out for {device.block_size}, vLLM's default",
        )
    return taken


def _latent_block_size(options: KvOptions, *, device: EngineDevice) -> int:
    """Blocks of latent attention are as large as the kernel wants them, and each wants others.

    A CPU's kernel takes one size only: vLLM overrides what is asked.

    Source: `CpuPlatform.check_and_update_config` in vllm/platforms/cpu.py, vLLM 0.32, for CPUs
    without AMX; vllm/v1/attention/backends/mla/ for GPUs.
    """
    if (block_size := device.latent_block_size or options.block_size) is None:
        raise ConfigError(
            f"the block size of latent attention on {device.name} depends on its kernel",
            code="setting_missing",
            param="block_size",
            hint="give what vLLM logs or is told: 64 for FlashMLA, 128 for CUTLASS",
        )
    return block_size


def _bytes_per_token(model: ModelConfig, options: KvOptions) -> int:
    """Of one layer on one GPU: keys and values of its heads, or one latent vector."""
    element_bytes = _element_bytes(model, options)
    _check_heads(model, options.tensor_parallel_size)
    if model.latent is not None:
        return model.head_size * element_bytes
    num_kv_heads = max(1, model.num_kv_heads // options.tensor_parallel_size)
    return 2 * num_kv_heads * model.head_size * element_bytes


def _element_bytes(model: ModelConfig, options: KvOptions) -> int:
    """Source: `resolve_kv_cache_dtype_string` and `STR_DTYPE_TO_TORCH_DTYPE` in
    vllm/utils/torch_utils.py, `_resolve_auto_dtype` in vllm/config/model.py, vLLM 0.32: models in
    float32, and those in types that no device computes in, run in 16 bits."""
    if options.kv_dtype not in KV_DTYPES:
        raise ConfigError(
            f"kv_dtype {options.kv_dtype!r} packs values in ways that are not known here",
            code="setting_invalid",
            param="kv_dtype",
            hint=f"known: {', '.join(KV_DTYPES)}",
        )
    if options.kv_dtype != "auto":
        return _BYTES[options.kv_dtype]
    if model.quantizes_kv_cache:
        raise ConfigError(
            "the checkpoint asks for a quantized KV cache",
            code="setting_missing",
            param="kv_dtype",
            hint="say which, as vLLM logs it: fp8, for example",
        )
    return _BYTES[options.dtype] if options.dtype != "auto" else 2


def _check_heads(model: ModelConfig, tensor_parallel_size: int) -> None:
    """Source: `ModelConfig.verify_with_parallel_config`, `LlamaAttention`, vLLM 0.32."""
    fewer, more = sorted((model.num_kv_heads, tensor_parallel_size))
    if model.num_heads % tensor_parallel_size or more % fewer:
        raise ConfigError(
            f"{model.num_heads} heads with {model.num_kv_heads} KV heads cannot be shared out to "
            f"{tensor_parallel_size} GPUs",
            code="heads_not_divisible",
            param="tensor_parallel_size",
            hint="take a power of two that divides the number of heads",
        )


def _ceil_div(amount: int, size: int) -> int:
    return -(-amount // size)
