"""Blocks and prefix hits, in the cases that a person can follow. The proof that all this is what
vLLM does is `tests/integration/test_simulator_agrees_with_vllm.py`."""

from __future__ import annotations

from typing import Any

import pytest

from serving.core.kv_events import BlockRemoved, BlockStored
from serving.simulator.block_pool import NULL_BLOCK, BlockPool
from serving.simulator.kv_cache import KvCache, KvCacheConfig
from serving.simulator.sequence import CachedSequence

BLOCK_SIZE = 4


def kv_cache(
    num_usable: int = 20, *, max_model_len: int = 64, max_in_flight_tokens: int = 64, **kind: Any
) -> KvCache:
    return KvCache(
        KvCacheConfig(num_usable + 1, BLOCK_SIZE, **kind),
        max_model_len=max_model_len,
        max_in_flight_tokens=max_in_flight_tokens,
    )


def prefill(cache: KvCache, prompt: list[int], **keys: str) -> tuple[CachedSequence, int]:
    """The prompt computed in one step, and how many of its tokens were hit."""
    sequence = CachedSequence(prompt, **keys)
    hit = cache.find_hit(sequence)
    num_hit_tokens = len(hit) * BLOCK_SIZE
    assert cache.admit(sequence, hit, num_new_tokens=len(prompt) - num_hit_tokens)
    sequence.num_computed_tokens = len(prompt)
    return sequence, num_hit_tokens


def decode(cache: KvCache, sequence: CachedSequence, num_tokens: int) -> None:
    for _ in range(num_tokens):
        sequence.token_ids.append(7)
        if len(sequence.token_ids) > sequence.quiet_tokens:
            assert cache.grow(sequence, num_new_tokens=1)
        sequence.num_computed_tokens += 1


def test_an_empty_cache() -> None:
    cache = kv_cache(20)

    assert (cache.num_free, cache.num_used, cache.usage) == (20, 0, 0.0)


def test_a_sequence_uses_whole_blocks() -> None:
    cache = kv_cache(20)
    sequence, _ = prefill(cache, list(range(9)))

    assert sequence.block_ids == [1, 2, 3]
    assert cache.num_used == 3
    assert cache.usage == pytest.approx(3 / 20)


def test_a_decode_takes_a_block_when_the_last_one_is_full() -> None:
    cache = kv_cache()
    sequence, _ = prefill(cache, list(range(3)))

    decode(cache, sequence, 1)
    assert len(sequence.block_ids) == 1
    decode(cache, sequence, 1)
    assert len(sequence.block_ids) == 2


def test_a_repeated_prompt_hits_all_but_its_last_token() -> None:
    cache = kv_cache()
    prefill(cache, list(range(8)))

    assert prefill(cache, list(range(8)))[1] == 4
    assert prefill(cache, list(range(9)))[1] == 8


def test_shared_blocks_count_once() -> None:
    cache = kv_cache()
    first, _ = prefill(cache, list(range(9)))
    second, _ = prefill(cache, list(range(9)))

    assert cache.num_used == 4
    cache.release(first)
    assert cache.num_used == 3
    cache.release(second)
    assert cache.num_used == 0


def test_output_is_hit_too() -> None:
    cache = kv_cache()
    sequence, _ = prefill(cache, list(range(6)))
    decode(cache, sequence, 3)

    assert prefill(cache, [*range(6), 7, 7, 7])[1] == 8


@pytest.mark.parametrize(
    "keys", [{"lora_name": "sql"}, {"cache_salt": "tenant"}, {"lora_name": "tenant"}]
)
def test_adapters_and_salts_share_nothing_with_others(keys: dict[str, str]) -> None:
    cache = kv_cache()
    prefill(cache, list(range(9)))
    prefill(cache, list(range(9)), lora_name="tenant", cache_salt="sql")

    assert prefill(cache, list(range(9)), **keys)[1] == 0
    assert prefill(cache, list(range(9)), **keys)[1] == 8


def test_an_empty_salt_is_no_salt() -> None:
    cache = kv_cache()
    prefill(cache, list(range(9)))

    assert prefill(cache, list(range(9)), cache_salt="")[1] == 8


def test_released_blocks_are_hit_until_they_are_reused() -> None:
    cache = kv_cache(4)
    sequence, _ = prefill(cache, list(range(13)))
    cache.release(sequence)
    other, _ = prefill(cache, [99] * 5)
    cache.release(other)

    # The block that held one token came first, then the tail of the prompt: its head remains.
    assert prefill(cache, list(range(13)))[1] == 8


def test_a_sequence_that_does_not_fit_whole_is_not_admitted() -> None:
    cache = kv_cache(2)
    sequence = CachedSequence(list(range(9)))

    assert not cache.admit(sequence, [], num_new_tokens=1)
    assert sequence.block_ids == []
    assert cache.num_free == 2


def test_free_blocks_that_are_hit_cannot_be_taken_as_well() -> None:
    cache = kv_cache(3)
    first, _ = prefill(cache, list(range(9)))
    cache.release(first)
    blocker, _ = prefill(cache, [99])
    sequence = CachedSequence(list(range(9)))
    hit = cache.find_hit(sequence)

    assert len(hit) == 2
    assert not cache.admit(sequence, hit, num_new_tokens=1)
    cache.release(blocker)
    assert cache.admit(sequence, hit, num_new_tokens=1)


def test_blocks_before_the_window_are_freed() -> None:
    cache = kv_cache(sliding_window=5)
    sequence, _ = prefill(cache, list(range(9)))
    decode(cache, sequence, 4)

    # The next token, the 14th, sees the 10th to 14th: the first two blocks have passed.
    assert cache.grow(sequence, num_new_tokens=1)
    assert sequence.block_ids[:2] == [NULL_BLOCK] * 2
    assert cache.num_used == len(sequence.block_ids) - 2


def test_a_window_needs_no_more_than_its_last_blocks_for_a_hit() -> None:
    cache = kv_cache(sliding_window=5)
    sequence, _ = prefill(cache, list(range(13)))
    cache.release(sequence)
    repeated, num_hit_tokens = prefill(cache, list(range(13)))

    assert num_hit_tokens == 12
    assert repeated.block_ids[:2] == [NULL_BLOCK] * 2
    assert NULL_BLOCK not in repeated.block_ids[2:]


def test_a_window_keeps_the_end_of_the_prompt_and_no_output() -> None:
    cache = kv_cache(sliding_window=5)
    sequence, _ = prefill(cache, list(range(13)))
    decode(cache, sequence, 8)
    cache.release(sequence)

    assert prefill(cache, [*range(13), *[7] * 8])[1] == 12
    assert prefill(cache, [*range(8), 99, 99])[1] == 0


@pytest.mark.parametrize(
    ("num_usable", "window", "fits"), [(3, 5, True), (2, 5, False), (3, None, False)]
)
def test_a_window_admits_prompts_larger_than_the_pool(
    num_usable: int, window: int | None, fits: bool
) -> None:
    # A window of 5 and a step of 4 tokens: 8 tokens are held at most, which can touch 3 blocks.
    cache = kv_cache(num_usable, sliding_window=window, max_in_flight_tokens=4)

    assert cache.admit(CachedSequence(range(60)), [], num_new_tokens=4) == fits


def test_events_tell_what_is_stored_and_removed() -> None:
    cache = kv_cache(3, record_events=True)
    sequence, _ = prefill(cache, list(range(9)), lora_name="sql", cache_salt="tenant")
    decode(cache, sequence, 3)
    cache.release(sequence)
    prefill(cache, [99])
    first, second, removed = cache.drain_events()

    assert isinstance(first, BlockStored)
    assert first.token_ids == tuple(range(8))
    assert first.parent_hash is None
    assert first.extra_keys == (("sql", "tenant"), ("sql",))
    assert isinstance(second, BlockStored)
    assert second.parent_hash == first.block_hashes[-1]
    assert second.token_ids == (8, 7, 7, 7)
    assert removed == BlockRemoved(second.block_hashes[0])
    assert cache.drain_events() == []


def test_nothing_is_recorded_unasked() -> None:
    cache = kv_cache()
    prefill(cache, list(range(9)))

    assert cache.drain_events() == []


def test_hashes_are_the_same_in_every_process() -> None:
    sequence = CachedSequence(range(8), lora_name="sql", cache_salt="tenant")
    sequence.extend_hashes(2, block_size=4)

    assert sequence.block_hashes[1].hex() == "335b1dacf26ea876057613d574938551"


def test_the_oldest_of_equal_blocks_is_hit() -> None:
    pool = BlockPool(4, events=None)
    pool.take(3)
    pool.store(2, b"hash")
    pool.store(1, b"hash")
    assert pool.find(b"hash") == 2

    pool.give_back([2])
    pool.take(1)
    assert pool.find(b"hash") == 1
    pool.give_back([1])
    pool.take(1)
    assert pool.find(b"hash") is None
