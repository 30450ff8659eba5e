"""What a replica tells of its routing adds up to what it holds, and never to more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.block_namer import NO_CHANGE
from serving.routing.routed_prefixes import ROUTED_GROUP, RoutedPrefixes, pack_header

NAMES = st.lists(st.integers(0, 9), max_size=6)


def record(routed: RoutedPrefixes, *names: int) -> None:
    routed.record(pack_header(names))


@given(st.lists(st.one_of(NAMES, st.none()), max_size=40), st.integers(1, 8))
def test_changes_add_up(steps: list[list[int] | None], max_names: int) -> None:
    """However calls of `change` fall between requests."""
    routed = RoutedPrefixes(max_names)
    told: set[int] = set()
    for step in [*steps, None]:
        if step is not None:
            record(routed, *step)
            continue
        change = routed.change()
        told -= set(change.removed.get(ROUTED_GROUP, ()))
        told |= set(change.stored.get(ROUTED_GROUP, ()))
        assert told == set(routed.held().get(ROUTED_GROUP, ()))
        assert len(told) <= max_names


def test_the_end_of_the_oldest_prompt_goes_first() -> None:
    routed = RoutedPrefixes(max_names=4)
    record(routed, 1, 2, 3)
    record(routed, 1, 4, 5)
    assert set(routed.held()[ROUTED_GROUP]) == {1, 2, 4, 5}


def test_nothing_new_is_no_change() -> None:
    routed = RoutedPrefixes(max_names=4)
    record(routed, 1, 2)
    routed.change()
    record(routed, 1, 2)
    assert routed.change() is NO_CHANGE
    assert not RoutedPrefixes(4).held()


@pytest.mark.parametrize("header", [b"", b"%%%", b"AAAA", b"A", b"\xff"])
def test_what_is_no_list_of_names_tells_nothing(header: bytes) -> None:
    routed = RoutedPrefixes(4)
    routed.record(header)
    assert not routed.held()
