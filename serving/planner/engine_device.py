"""What vLLM 0.32 assumes of the two kinds of device, as far as the plan depends on it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineDevice:
    """Where an engine computes.

    `block_size` is vLLM's default in tokens, `kernel_block_size` what attention kernels take
    multiples of, `latent_block_size` that of latent attention, `None` where it depends on the
    kernel. `num_concurrent_steps` may be in flight at once. Chunks of fewer than `min_chunk_tokens`
    leave it idle.
    """

    name: str
    block_size: int
    kernel_block_size: int
    latent_block_size: int | None
    num_concurrent_steps: int
    min_chunk_tokens: int


CPU = EngineDevice(
    name="cpu",
    block_size=128,
    kernel_block_size=32,
    latent_block_size=16,
    num_concurrent_steps=1,
    min_chunk_tokens=256,
)
"""Source: vllm/platforms/cpu.py, vllm/v1/attention/backends/cpu_attn.py. The chunk: TTFT of a
2,000-token prompt is the same from 256 tokens up, as measured in ADR 18."""

GPU = EngineDevice(
    name="gpu",
    block_size=16,
    kernel_block_size=16,
    latent_block_size=None,
    num_concurrent_steps=2,
    min_chunk_tokens=512,
)
"""Source: `CacheConfig.DEFAULT_BLOCK_SIZE`, vllm/v1/attention/backends/flash_attn.py, and
`VllmConfig.max_concurrent_batches`, which is 2 under asynchronous scheduling, the default on GPUs.
The chunk: an H100 does 989 TFLOP/s in bfloat16 and reads 3.35 TB/s (NVIDIA's data sheet), so a step
reads weights for longer than it computes until it has 300 tokens."""

DEVICES = {"cpu": CPU, "gpu": GPU}
