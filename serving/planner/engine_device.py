"""What vLLM 0.32 assumes of the two kinds of device, as far as the plan depends on it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class EngineDevice:
    """Where an engine computes.

    `block_size` is vLLM's default in tokens, `kernel_block_size` what attention kernels take
    multiples of, `latent_block_size` that of latent attention, `None` where it depends on the
    kernel. `num_concurrent_steps` may be in flight at once. Chunks of fewer than `min_chunk_tokens`
    leave it idle. `default_chunk_tokens` is a server's `max_num_batched_tokens`, which is only
    assumed where `is_default_assumed`.
    """

    name: str
    block_size: int
    kernel_block_size: int
    latent_block_size: int | None
    num_concurrent_steps: int
    min_chunk_tokens: int
    default_chunk_tokens: int
    is_default_assumed: bool = False


CPU = EngineDevice(
    name="cpu",
    block_size=128,
    kernel_block_size=32,
    latent_block_size=16,
    num_concurrent_steps=1,
    min_chunk_tokens=256,
    default_chunk_tokens=2048,
)
"""Source: vllm/platforms/cpu.py, vllm/v1/attention/backends/cpu_attn.py. The chunk: TTFT of a
2,000-token prompt is the same from 256 tokens up, as measured in ADR 18. vLLM's default is that of
each engine process."""

GPU = EngineDevice(
    name="gpu",
    block_size=16,
    kernel_block_size=16,
    latent_block_size=None,
    num_concurrent_steps=2,
    min_chunk_tokens=512,
    default_chunk_tokens=2048,
)
"""A GPU of less than 70 GiB.

Source: `CacheConfig.DEFAULT_BLOCK_SIZE`, vllm/v1/attention/backends/flash_attn.py, and
`VllmConfig.max_concurrent_batches`, which is 2 under asynchronous scheduling, the default on GPUs.
The chunk: an H100 does 989 TFLOP/s in bfloat16 and reads 3.35 TB/s (NVIDIA's data sheet), so a step
reads weights for longer than it computes until it has 300 tokens."""

_DEFAULT_CHUNKS = {
    **dict.fromkeys(("B200", "B300", "GB200", "GB300"), 16384),
    **dict.fromkeys(("H100", "H20", "H200", "RTX-PRO-6000"), 8192),
    **dict.fromkeys(("A100", "A100-40G", "A100-80G", "A10G", "L4", "L40S", "T4", "V100"), 2048),
}
"""By Ray's name of a GPU: from 160 GiB, from 70 GiB, and below or an A100.

Source: `EngineArgs.get_batch_defaults` in vllm/engine/arg_utils.py, vLLM 0.32, of an API server."""


def gpu_device(accelerator_type: str | None) -> EngineDevice:
    """A GPU of Ray's name; one that is not known here is taken to have 70 GiB or more.

    >>> gpu_device("A100").default_chunk_tokens, gpu_device("B200").default_chunk_tokens
    (2048, 16384)
    >>> gpu_device(None).default_chunk_tokens, gpu_device(None).is_default_assumed
    (8192, True)
    """
    if (chunk_tokens := _DEFAULT_CHUNKS.get(accelerator_type or "")) is None:
        return replace(GPU, default_chunk_tokens=8192, is_default_assumed=True)
    return replace(GPU, default_chunk_tokens=chunk_tokens)
