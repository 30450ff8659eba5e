"""Server-sent events, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.generator.events import MAX_EVENT_BYTES, EventSplitter, EventTooLongError

STREAM = (
    b": a comment\n\ndata: {}\n\nevent: x\ndata: one\ndata: two\n\n"
    b"data:tight\r\n\r\nid: 7\n\ndata: \xc3\xa9\r\n\r\ndata: [DONE]\n\n"
)
EVENTS = [b"{}", b"one\ntwo", b"tight", "é".encode(), b"[DONE]"]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
@settings(deadline=None)
def test_the_same_events_however_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    splitter = EventSplitter()

    found = [event for begin, end in pairwise(edges) for event in splitter.feed(STREAM[begin:end])]

    assert found == EVENTS


def test_many_small_parts_cost_no_more_than_their_bytes() -> None:
    """If all that has come were copied with each part, this would copy 22 GB."""
    splitter = EventSplitter()

    for _ in range(MAX_EVENT_BYTES // 40):
        assert splitter.feed(b"aaaa") == []
    assert splitter.feed(b"\ndata: b\r") == []
    assert splitter.feed(b"\n\r") == []
    assert splitter.feed(b"\n") == [b"b"]


def test_an_event_without_an_end_is_given_up() -> None:
    splitter = EventSplitter()

    with pytest.raises(EventTooLongError):
        splitter.feed(b"data: " + b"a" * MAX_EVENT_BYTES)
