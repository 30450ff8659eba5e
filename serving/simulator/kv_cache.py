"""KV blocks and prefix cache of one engine, counted as vLLM 0.32 counts them.

For models with one KV-cache group: full attention in every layer, or the same sliding window in
every layer. vLLM's defaults: prefix caching on, no watermark, `prefix_cache_retention_interval` 0.

Source: vllm/v1/core/kv_cache_manager.py and single_type_kv_cache_manager.py, vLLM 0.32.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from serving.core.kv_events import BlockStored, KvEvent
from serving.simulator.block_pool import NULL_BLOCK, BlockPool
from serving.simulator.sequence import CachedSequence


@dataclass(frozen=True, slots=True)
class KvCacheConfig:
    """The size and kind of a KV cache."""

    num_blocks: int
    """Including the null block, as vLLM counts `num_gpu_blocks`; one fewer is usable. At least 2.

    A sequence that outgrows the pool never runs again, in vLLM as here: leave room for
    `max_model_len` tokens, plus the null block.
    """
    block_size: int
    """Tokens in each block, at least 1."""
    sliding_window: int | None = None
    """Tokens each token attends to, itself included; `None` for full attention."""
    record_events: bool = False
    """Whether stores and evictions are kept until `KvCache.drain_events`."""


class KvCache:
    """The pool and the rules by which sequences draw on it."""

    def __init__(
        self, config: KvCacheConfig, *, max_model_len: int, max_in_flight_tokens: int
    ) -> None:
        """An empty cache.

        Args:
            max_model_len: tokens in the longest sequence.
            max_in_flight_tokens: tokens scheduled and not yet committed, at most. One batch;
                vLLM counts two under async scheduling.
        """
        self.num_query_tokens = 0
        """Prompt tokens looked up at first admissions: `vllm:prefix_cache_queries`."""
        self.num_hit_tokens = 0
        """Those of them that were cached: `vllm:prefix_cache_hits`."""
        self._block_size = config.block_size
        self._window = config.sliding_window
        self._events: list[KvEvent] | None = [] if config.record_events else None
        self._pool = BlockPool(config.num_blocks, events=self._events)
        self._max_blocks = self._num_blocks_for(max_model_len)
        self.num_window_blocks = 0
        """Blocks that the window of the next token reaches into, 0 for full attention."""
        if self._window is not None:
            self.num_window_blocks = self._num_blocks_for(self._window - 1)
            # One more, since a window may begin inside a block.
            # Source: `SlidingWindowSpec.max_admission_blocks_per_request`.
            most = min(self._window - 1 + max_in_flight_tokens, max_model_len)
            self._max_blocks = self._num_blocks_for(most) + 1

    @property
    def num_free(self) -> int:
        """Free blocks, cached ones included."""
        return self._pool.num_free

    @property
    def num_used(self) -> int:
        """Blocks of admitted sequences; a shared one counts once."""
        return self._pool.num_usable - self._pool.num_free

    @property
    def usage(self) -> float:
        """`vllm:kv_cache_usage_perc`, which despite its name is a ratio: 0 to 1."""
        return 1.0 - self._pool.num_free / self._pool.num_usable

    @property
    def free_blocks(self) -> list[int]:
        """Free blocks in the order in which they will be reused."""
        return self._pool.free_blocks

    def drain_events(self) -> list[KvEvent]:
        """Events since the last call, oldest first; they are kept no longer.

        Whoever asks for events must drain them, or they pile up.
        """
        if not self._events:
            return []
        events = self._events.copy()
        self._events.clear()
        return events

    def find_hit(self, sequence: CachedSequence) -> list[int]:
        """Cached blocks that `sequence` could begin with, null where the window has passed.

        At least one token is left to compute, since sampling needs its logits.
        """
        num_blocks = (len(sequence.token_ids) - 1) // self._block_size
        sequence.extend_hashes(num_blocks, block_size=self._block_size)
        if self._window is not None:
            return self._find_window_hit(sequence.block_hashes, num_blocks)
        hit: list[int] = []
        for block_hash in islice(sequence.block_hashes, num_blocks):
            block = self._pool.find(block_hash)
            if block is None:
                break
            hit.append(block)
        return hit

    def admit(self, sequence: CachedSequence, hit: list[int], *, num_new_tokens: int) -> bool:
        """Whether the whole sequence fits; if so, it has `hit` and room for `num_new_tokens`.

        Args:
            sequence: without blocks.
            hit: what `find_hit` has just returned.
            num_new_tokens: tokens to compute in this step, at least 1.
        """
        num_hit_tokens = len(hit) * self._block_size
        num_whole = min(self._num_blocks_for(len(sequence.token_ids)), self._max_blocks)
        num_now = self._num_blocks_for(num_hit_tokens + num_new_tokens)
        num_skipped = self._num_skipped_blocks(num_hit_tokens)
        kept = hit[num_skipped:]
        # Hit blocks that are free count as needed: sharing them takes them from the queue.
        num_missing = max(num_whole, num_now) - len(hit) + self._pool.count_free(kept)
        if num_missing > self._pool.num_free:
            return False
        self._pool.share(kept)
        sequence.block_ids = [NULL_BLOCK] * num_skipped + kept
        sequence.num_skipped_blocks = num_skipped
        sequence.num_full_blocks = len(hit)
        sequence.num_computed_tokens = num_hit_tokens
        return self.grow(sequence, num_new_tokens=num_new_tokens)

    def grow(self, sequence: CachedSequence, *, num_new_tokens: int) -> bool:
        """Whether an admitted sequence has room for its next tokens; full blocks become hits.

        Blocks that slid out of the window are freed first, and stay so if there is no room.
        """
        if self._window is not None:
            self._free_skipped(sequence)
        num_tokens = sequence.num_computed_tokens + num_new_tokens
        num_missing = self._num_blocks_for(num_tokens) - len(sequence.block_ids)
        if num_missing > self._pool.num_free:
            return False
        if num_missing > 0:
            sequence.block_ids += self._pool.take(num_missing)
        num_full_blocks = num_tokens // self._block_size
        if num_full_blocks > sequence.num_full_blocks:
            self._store_full_blocks(sequence, num_full_blocks)
        sequence.quiet_tokens = self._quiet_tokens(sequence)
        return True

    def release(self, sequence: CachedSequence) -> None:
        """`sequence` holds no blocks; its last ones are reused first."""
        self._pool.give_back(sequence.block_ids[::-1])
        sequence.block_ids = []
        sequence.num_full_blocks = 0
        sequence.num_skipped_blocks = 0
        sequence.quiet_tokens = 0
        sequence.num_computed_tokens = 0

    def num_stored_tokens(self, sequence: CachedSequence) -> int:
        """Prompt tokens up to the last block in the prefix cache that `sequence` holds.

        Args:
            sequence: admitted, with its whole prompt scheduled.

        Source: `estimate_cached_tokens` in vllm/v1/core/kv_cache_manager.py, vLLM 0.32.
        """
        num_full_blocks = sequence.num_prompt_tokens // self._block_size
        stored = self._reusable_blocks(sequence, 0, num_full_blocks)
        is_held = stored and stored.stop > sequence.num_skipped_blocks
        return stored.stop * self._block_size if is_held else 0

    def record_lookup(self, *, num_tokens: int, num_hit_tokens: int) -> None:
        """A lookup counts in the metrics."""
        self.num_query_tokens += num_tokens
        self.num_hit_tokens += num_hit_tokens

    def _num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size)

    def _num_skipped_blocks(self, num_computed_tokens: int) -> int:
        """Whole blocks before the window of the next token."""
        if self._window is None:
            return 0
        return max(num_computed_tokens - self._window + 1, 0) // self._block_size

    def _find_window_hit(self, block_hashes: list[bytes], num_blocks: int) -> list[int]:
        """The longest prefix whose last window is cached, or a shorter one cached from its start.

        Source: `SlidingWindowManager.find_longest_cache_hit`, vLLM 0.32.
        """
        run: list[int] = []
        for index in range(num_blocks - 1, -1, -1):
            block = self._pool.find(block_hashes[index])
            if block is None:
                run.clear()
                continue
            run.append(block)
            if len(run) >= self.num_window_blocks:
                return [NULL_BLOCK] * index + run[::-1]
        return run[::-1]

    def _free_skipped(self, sequence: CachedSequence) -> None:
        first = sequence.num_skipped_blocks
        last = self._num_skipped_blocks(sequence.num_computed_tokens)
        if last > first:
            self._pool.give_back(sequence.block_ids[first:last][::-1])
            sequence.block_ids[first:last] = [NULL_BLOCK] * (last - first)
            sequence.num_skipped_blocks = last

    def _store_full_blocks(self, sequence: CachedSequence, num_full_blocks: int) -> None:
        first = sequence.num_full_blocks
        sequence.num_full_blocks = num_full_blocks
        stored = self._reusable_blocks(sequence, first, num_full_blocks)
        if not stored and self._events is None:
            return
        sequence.extend_hashes(num_full_blocks, block_size=self._block_size)
        for index in stored:
            self._pool.store(sequence.block_ids[index], sequence.block_hashes[index])
        if self._events is not None:
            self._events.append(self._stored_event(sequence, first, stored))

    def _reusable_blocks(self, sequence: CachedSequence, first: int, last: int) -> range:
        """Those of the blocks `first` to `last` that a later prompt may hit.

        Under a sliding window vLLM keeps only what a repetition of the prompt needs: its last
        window. Outputs are not kept, so the next turn of a conversation hits the old prompt only.

        Source: `SlidingWindowManager.reachable_block_mask` and `replay_boundaries` with
            `prefix_cache_retention_interval` 0, vLLM 0.32.
        """
        if self._window is None:
            return range(first, last)
        end = (sequence.num_prompt_tokens - 1) // self._block_size
        return range(max(first, end - self.num_window_blocks), min(last, end))

    def _stored_event(self, sequence: CachedSequence, first: int, stored: range) -> BlockStored:
        start, end = first * self._block_size, sequence.num_full_blocks * self._block_size
        return BlockStored(
            block_hashes=tuple(sequence.block_hashes[index] for index in stored),
            parent_hash=sequence.block_hashes[first - 1] if first else None,
            token_ids=tuple(sequence.token_ids[start:end]),
            lora_name=sequence.lora_name,
            extra_keys=tuple(sequence.extra_keys(index) for index in stored),
        )

    def _quiet_tokens(self, sequence: CachedSequence) -> int:
        """The length up to which no block fills, is missing or slides out, one token a step."""
        before_full = len(sequence.block_ids) * self._block_size - 1
        if self._window is None:
            return before_full
        next_skip = (sequence.num_skipped_blocks + 1) * self._block_size
        return min(before_full, self._window - 1 + next_skip)
