"""The index against a plain model of it, and its hits against the simulator's cache."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serving.core.types import ReplicaId
from serving.routing.prefix_index import CacheGroup, PrefixIndex, longest_common_hit

REPLICAS = [ReplicaId(f"r{number}") for number in range(70)]  # more than one shard
NAMES = st.lists(st.integers(1, 30), max_size=12)
FULL = CacheGroup()


def plain_hit(blocks: list[bool], window: int | None) -> int:
    """As vLLM walks it: forward for full attention, backward for a window."""
    leading = 0
    while leading < len(blocks) and blocks[leading]:
        leading += 1
    if window is None:
        return leading
    for end in range(len(blocks), window - 1, -1):
        if all(blocks[end - window : end]):
            return end
    return leading


def bits(blocks: list[bool]) -> int:
    return sum(1 << index for index, is_there in enumerate(blocks) if is_there)


@given(st.lists(st.booleans(), max_size=40), st.none() | st.integers(1, 9))
def test_a_hit_is_what_vllm_finds(blocks: list[bool], window: int | None) -> None:
    assert CacheGroup(window).longest_hit(bits(blocks), len(blocks)) == plain_hit(blocks, window)


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 40), st.none() | st.integers(1, 9))
def test_a_limit_cuts_the_prompt(blocks: list[bool], limit: int, window: int | None) -> None:
    limit = min(limit, len(blocks))
    found = CacheGroup(window).longest_hit(bits(blocks), limit)
    assert found == plain_hit(blocks[:limit], window)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), max_size=24),
    st.integers(1, 5),
)
def test_a_hybrid_hit_satisfies_every_group(blocks: list[tuple[bool, bool]], window: int) -> None:
    full, sliding = [list(column) for column in zip(*blocks, strict=True)] or ([], [])
    groups = [FULL, CacheGroup(window)]
    hit = longest_common_hit(groups, [bits(full), bits(sliding)], len(blocks))
    possible = [
        end
        for end in range(len(blocks) + 1)
        if all(full[:end]) and plain_hit(sliding[:end], window) == end
    ]
    assert hit == max(possible)


class IndexMachine(RuleBasedStateMachine):
    """Any sequence of changes leaves the index equal to a set per replica."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex([FULL], max_entries=10_000)
        self.model: dict[ReplicaId, set[int]] = {}

    @rule(replica=st.sampled_from(REPLICAS), names=NAMES)
    def store(self, replica: ReplicaId, names: list[int]) -> None:
        self.index.store(replica, names)
        self.model.setdefault(replica, set()).update(names)

    @rule(replica=st.sampled_from(REPLICAS), names=NAMES)
    def remove(self, replica: ReplicaId, names: list[int]) -> None:
        self.index.remove(replica, names)
        self.model.get(replica, set()).difference_update(names)

    @rule(replica=st.sampled_from(REPLICAS), names=NAMES)
    def replace(self, replica: ReplicaId, names: list[int]) -> None:
        self.index.replace(replica, {0: names})
        self.model[replica] = set(names)

    @rule(replica=st.sampled_from(REPLICAS))
    def forget(self, replica: ReplicaId) -> None:
        self.index.forget(replica)
        self.model.pop(replica, None)

    @rule(prompt=NAMES)
    def look_up(self, prompt: list[int]) -> None:
        expected = {
            replica: hit
            for replica, held in self.model.items()
            if (hit := plain_hit([name in held for name in prompt], None))
        }
        assert self.index.hits(prompt) == expected

    @invariant()
    def counts_agree(self) -> None:
        assert self.index.num_entries == sum(map(len, self.model.values()))
        for replica in REPLICAS[:3]:
            assert self.index.num_blocks(replica) == len(self.model.get(replica, ()))


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=25, stateful_step_count=40)


def test_memory_stays_bounded_and_the_oldest_go() -> None:
    index = PrefixIndex([FULL], max_entries=1000)
    rng = Random(0)
    for start in range(0, 100_000, 20):
        replica = REPLICAS[rng.randrange(4)]
        index.store(replica, range(start, start + 20))
        assert index.num_entries <= 1000
    last = list(range(start, start + 20))
    assert index.hits(last) == {replica: 20}
    assert index.hits([0]) == {}
    for replica in REPLICAS:
        index.forget(replica)
    assert index.num_entries == 0


def test_what_is_used_again_is_kept() -> None:
    index = PrefixIndex([FULL], max_entries=100)
    for start in range(1000, 9000, 10):
        index.store(REPLICAS[0], [1, 2, 3])
        index.store(REPLICAS[0], range(start, start + 10))
    assert index.hits([1, 2, 3]) == {REPLICAS[0]: 3}


def test_a_slot_given_up_holds_nothing_of_its_last_replica() -> None:
    index = PrefixIndex([FULL], max_entries=100)
    index.store(REPLICAS[0], [1, 2])
    index.forget(REPLICAS[0])
    index.store(REPLICAS[1], [2])
    assert index.hits([1, 2]) == {}
    assert index.hits([2]) == {REPLICAS[1]: 1}


def test_groups_are_apart() -> None:
    index = PrefixIndex([FULL, CacheGroup(2)], max_entries=100)
    index.store(REPLICAS[0], [1, 2, 3], group=0)
    assert index.hits([1, 2, 3]) == {}
    index.store(REPLICAS[0], [2, 3], group=1)
    assert index.hits([1, 2, 3]) == {REPLICAS[0]: 3}


@pytest.mark.parametrize("names", [[], [5]])
def test_nothing_known_is_no_hit(names: list[int]) -> None:
    index = PrefixIndex([CacheGroup(3)], max_entries=10)
    assert index.hits(names) == {}
    index.remove(REPLICAS[0], [5])
    index.forget(REPLICAS[0])
    assert index.num_blocks(REPLICAS[0]) == 0
