"""What one engine replica tells the autoscaler of itself."""

from __future__ import annotations

from dataclasses import dataclass

from serving.core.types import EngineDescription, EngineLoad


@dataclass(frozen=True, slots=True)
class ReplicaFigures:
    """One replica's figures, all of them finite floats: Ray Serve refuses anything else.

    Totals count since the engine's start and begin again with it. `draining` is 1 for a replica
    that finishes its last requests, else 0.
    """

    prompt_tokens_total: float
    """Prompt tokens computed; those found in the prefix cache are not."""
    output_tokens_total: float
    preemptions_total: float
    waiting_tokens: float
    """Prompt tokens that no step has computed yet."""
    kv_used_ratio: float
    """0 to 1; 0 for an engine without a KV cache."""
    in_flight: float
    """Requests."""
    draining: float


def figures_of(
    load: EngineLoad, engine: EngineDescription, *, in_flight: int, is_draining: bool
) -> ReplicaFigures:
    """The figures of a replica at one moment.

    >>> engine = EngineDescription(4096, None, 16, 101, (), max_num_batched_tokens=256)
    >>> load = EngineLoad(running=2, waiting=0, kv_blocks_used=25, output_tokens=70)
    >>> figures = figures_of(load, engine, in_flight=2, is_draining=False)
    >>> figures.kv_used_ratio, figures.output_tokens_total, figures.draining
    (0.25, 70.0, 0.0)
    """
    # The first block is never handed out: see `BlockPool` in vllm/v1/core/block_pool.py, vLLM 0.32.
    num_usable = max(engine.kv_blocks_total - 1, 1)
    return ReplicaFigures(
        prompt_tokens_total=float(load.prompt_tokens_computed),
        output_tokens_total=float(load.output_tokens),
        preemptions_total=float(load.preemptions),
        waiting_tokens=float(load.waiting_tokens),
        kv_used_ratio=min(load.kv_blocks_used / num_usable, 1.0),
        in_flight=float(in_flight),
        draining=float(is_draining),
    )
