"""What an engine tells of its prefix cache, in the order in which it happened.

Source: vllm/distributed/kv_events.py, vLLM 0.32.
"""

from __future__ import annotations

from dataclasses import dataclass

EngineHash = int | bytes
"""The engine's own name for a block and all before it; means nothing outside of its process."""


@dataclass(frozen=True, slots=True)
class BlockStored:
    """Blocks of one sequence that later prompts can hit from now on.

    With a sliding window only some of the blocks that `token_ids` spans are kept, so there can be
    fewer hashes than blocks, or none.
    """

    block_hashes: tuple[EngineHash, ...]
    parent_hash: EngineHash | None
    """Of the block before the first one that filled; `None` at the start of a prompt."""
    token_ids: tuple[int, ...]
    """Tokens of every block that filled, a multiple of the block size."""
    lora_name: str | None
    extra_keys: tuple[tuple[object, ...] | None, ...]
    """For each hash what besides tokens made it: the LoRA name, a pair for each image in the block,
    and the cache salt on the first block of a prompt."""
    group: int = 0
    """KV-cache group."""


@dataclass(frozen=True, slots=True)
class BlockRemoved:
    """One block was evicted. Another with the same hash may remain: consumers must count."""

    block_hash: EngineHash
    group: int = 0


@dataclass(frozen=True, slots=True)
class CacheCleared:
    """Every block was evicted."""


KvEvent = BlockStored | BlockRemoved | CacheCleared
