"""Names from KV events: an index fed with them foretells what the engine's cache then gives."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from serving.core.kv_events import BlockRemoved, BlockStored, CacheCleared, EngineHash
from serving.core.types import ReplicaId
from serving.routing.block_hashing import BlockHasher
from serving.routing.block_namer import BlockNamer, CacheChange
from serving.routing.prefix_index import CacheGroup, PrefixIndex
from serving.simulator.kv_cache import KvCacheConfig
from serving.simulator.request import Request
from serving.simulator.scheduler import Scheduler, SchedulerConfig

BLOCK = 4
HASHER = BlockHasher(b"secret", block_size=BLOCK)
REPLICA = ReplicaId("r")


class Engine:
    """A simulated engine, the namer beside it, and the index of a gateway."""

    def __init__(self, window: int | None, num_blocks: int) -> None:
        cache = KvCacheConfig(num_blocks, BLOCK, sliding_window=window, record_events=True)
        limits = SchedulerConfig(
            cache, max_model_len=128, max_num_seqs=6, max_num_batched_tokens=24
        )
        self.scheduler = Scheduler(limits)
        self.namer = BlockNamer(HASHER, max_expected=500)
        window_blocks = None if window is None else -(-(window - 1) // BLOCK)
        self.index = PrefixIndex([CacheGroup(window_blocks)], max_entries=10_000)
        self.window = window

    def names(self, request: Request) -> list[int]:
        root = HASHER.root(lora_name=request.lora_name, cache_salt=request.cache_salt)
        named: list[int] = HASHER.names(np.array(request.token_ids), parent=root).tolist()
        return named

    def predicted(self, request: Request) -> int:
        num_blocks = (len(request.token_ids) - 1) // BLOCK
        hit = self.index.hits(self.names(request)[:num_blocks]).get(REPLICA, 0)
        return hit * BLOCK

    def add(self, request: Request) -> None:
        if self.window is not None:
            num_blocks = len(request.token_ids) // BLOCK
            request.extend_hashes(num_blocks, block_size=BLOCK)
            pairs: list[tuple[EngineHash, int]] = list(
                zip(request.block_hashes, self.names(request), strict=False)
            )
            self.namer.expect(pairs)
        self.scheduler.add(request)

    def step(self, rng: Random) -> None:
        plan = self.scheduler.schedule()
        self.scheduler.commit(plan, lambda request: rng.randrange(5))
        change = self.namer.apply(self.scheduler.kv_cache.drain_events())
        if change.is_cleared:
            self.index.forget(REPLICA)
        self.index.store(REPLICA, change.stored.get(0, []))
        self.index.remove(REPLICA, change.removed.get(0, []))

    def finish(self, rng: Random) -> None:
        while self.scheduler.num_running or self.scheduler.num_waiting:
            self.step(rng)


@pytest.mark.parametrize("window", [None, 9, 16])
@pytest.mark.parametrize("seed", range(8))
def test_the_index_foretells_every_hit(window: int | None, seed: int) -> None:
    rng = Random(seed)
    engine = Engine(window, num_blocks=60)
    heads = [[rng.randrange(5) for _ in range(rng.randrange(60))] for _ in range(3)]
    num_hits = 0
    for number in range(60):
        prompt = rng.choice(heads)[: rng.randrange(61)] + [9] * rng.randrange(1, 9)
        request = Request(
            str(number),
            prompt,
            max_tokens=rng.randrange(1, 20),
            lora_name=rng.choice([None, "lora"]),
            cache_salt=rng.choice([None, "tenant"]),
        )
        predicted = engine.predicted(request)
        engine.add(request)
        if rng.random() < 0.6:  # alone in its first step, so that nothing changes before it
            while request in engine.scheduler.waiting:
                before = engine.predicted(request)
                engine.step(rng)
                predicted = before
            assert request.num_cached_tokens == predicted
            num_hits += predicted > 0
        engine.finish(rng)
        held = {name for names in engine.namer.held().values() for name in names}
        assert engine.index.num_blocks(REPLICA) == len(held)
    assert num_hits > 5
    assert engine.namer.num_unnamed == 0


def stored(
    *hashes: int, parent: int | None = None, tokens: int = 1, **kwargs: object
) -> BlockStored:
    fields = {"lora_name": None, "extra_keys": (None,) * len(hashes), **kwargs}
    token_ids = (tokens,) * (BLOCK * len(hashes))
    return BlockStored(hashes, parent, token_ids, **fields)  # type: ignore[arg-type]


def namer() -> BlockNamer:
    return BlockNamer(HASHER, max_expected=3)


def test_equal_blocks_are_counted() -> None:
    some = namer()
    (name,) = some.apply([stored(1)]).stored[0]
    assert some.apply([stored(1)]) == CacheChange({}, {})
    assert some.apply([BlockRemoved(1)]) == CacheChange({}, {})
    assert some.apply([BlockRemoved(1)]) == CacheChange({}, {0: [name]})
    assert some.held() == {0: []}


def test_the_last_of_several_changes_counts() -> None:
    some = namer()
    change = some.apply([stored(1), BlockRemoved(1), stored(1)])
    assert len(change.stored[0]) == 1
    assert change.removed == {}
    assert some.apply([BlockRemoved(1), stored(1), BlockRemoved(1)]).stored == {}


def test_a_cleared_cache_holds_what_came_after() -> None:
    some = namer()
    some.apply([stored(1)])
    change = some.apply([stored(2), CacheCleared(), stored(3, tokens=7)])
    assert change.is_cleared
    assert change.stored == some.held()
    assert len(change.stored[0]) == 1


def test_a_block_after_an_unknown_one_has_no_name() -> None:
    some = namer()
    assert not some.apply([stored(2, parent=1)])
    assert some.num_unnamed == 1
    assert not some.apply([BlockRemoved(2)])


def test_only_the_latest_expectations_are_kept() -> None:
    some = namer()
    some.expect([(number, number * 10) for number in range(5)])
    change = some.apply([stored(1, parent=99), stored(4, parent=99)])
    assert change.stored == {0: [40]}


def test_blocks_with_images_are_left_out() -> None:
    some = namer()
    assert not some.apply([stored(1, extra_keys=((("image", 0),),))])
    assert some.num_unnamed == 1


def test_groups_are_named_apart() -> None:
    some = namer()
    change = some.apply([stored(1, group=0), stored(1, group=1), BlockRemoved(1, group=0)])
    assert list(change.stored) == [1]
    assert list(change.removed) == [0]
