"""Names of blocks: equal for equal prefixes, and for nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.block_hashing import BlockHasher

BLOCK = 4
HASHER = BlockHasher(b"secret", block_size=BLOCK)
ROOT = HASHER.root()
TOKENS = st.lists(st.integers(0, 200_000), max_size=60)
MODULUS = 1 << 64


def names(tokens: list[int], parent: int = ROOT, hasher: BlockHasher = HASHER) -> list[int]:
    found: list[int] = hasher.names(np.array(tokens, dtype=np.int64), parent=parent).tolist()
    return found


@given(TOKENS, TOKENS)
def test_names_are_equal_as_far_as_the_prompts_are(some: list[int], other: list[int]) -> None:
    common = 0
    while common < min(len(some), len(other)) and some[common] == other[common]:
        common += 1
    pairs = list(zip(names(some), names(other), strict=False))
    assert [a == b for a, b in pairs] == [index < common // BLOCK for index in range(len(pairs))]


@given(TOKENS, st.integers(0, 15))
def test_a_prompt_may_be_named_in_parts(tokens: list[int], cut: int) -> None:
    whole = names(tokens)
    cut = min(cut, len(whole))
    parent = whole[cut - 1] if cut else ROOT
    assert whole[:cut] + names(tokens[cut * BLOCK :], parent) == whole


@given(TOKENS)
def test_the_solved_form_is_the_recurrence(tokens: list[int]) -> None:
    expected, name = [], ROOT
    coefficients = HASHER._coefficients.tolist()
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        block = tokens[start : start + BLOCK]
        content = sum((t + 1) * c for t, c in zip(block, coefficients, strict=True))
        name = (name * HASHER._base + content) % MODULUS
        expected.append(name)
    assert names(tokens) == expected


def test_a_last_block_that_is_not_full_has_no_name() -> None:
    assert len(names([1] * 7)) == 1
    assert names([1] * 3) == []


def test_order_and_place_count() -> None:
    assert names([1, 2, 3, 4]) != names([2, 1, 3, 4])
    assert names([0] * 8)[0] != names([0] * 8)[1]


def test_a_prompt_longer_than_any_before() -> None:
    fresh = BlockHasher(b"secret", block_size=BLOCK)
    long = list(range(BLOCK * 9000))
    assert names(long, hasher=fresh)[:100] == names(long[: BLOCK * 100])
    assert len(set(names(long))) == 9000


@pytest.mark.parametrize("extra", [{"lora_name": "a"}, {"cache_salt": "a"}])
def test_adapters_and_salts_share_nothing(extra: dict[str, str]) -> None:
    assert HASHER.root(**extra) != ROOT
    assert names([1] * 8, HASHER.root(**extra)) != names([1] * 8)
    assert HASHER.root(lora_name="a") != HASHER.root(cache_salt="a")
    assert HASHER.root(lora_name="", cache_salt="") == ROOT


def test_the_secret_counts() -> None:
    other = BlockHasher(b"another", block_size=BLOCK)
    assert names([1] * 4, other.root(), other) != names([1] * 4)
    assert BlockHasher(b"secret", block_size=BLOCK).root() == ROOT
