"""Counting bytes, not parsing them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.client import EventCounter, Pace, Shape, Stream, first_error, num_failed

_BODY = b'data: {"a": 1}\n\ndata: {"b": "data"}\n\ndata: {}\n\ndata: [DONE]\n\n'


@given(st.lists(st.integers(0, len(_BODY)), max_size=12))
def test_events_are_counted_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(_BODY)]
    counter = EventCounter()

    total = sum(counter.feed(_BODY[a:b]) for a, b in pairwise(edges))

    assert total == 3


@pytest.mark.parametrize(
    ("since_first_s", "in_time"), [(0.0, 3), (0.24, 3), (0.26, 2), (0.36, 1), (0.46, 0), (9.0, 0)]
)
def test_chunks_are_in_time_until_their_slack_is_used(since_first_s: float, in_time: int) -> None:
    pace = Pace(interval_s=0.1, slack_s=0.05)

    assert pace.num_in_time(seen=2, new=3, since_first_s=since_first_s) == in_time


def test_a_request_fixes_the_number_of_tokens() -> None:
    body = Shape(num_tokens=7).body("demo", 3)

    assert (body["max_tokens"], body["ignore_eos"], body["stream"]) == (7, True, True)
    assert body["messages"][0]["content"].endswith("number 3.")


def test_failed_streams_are_counted_and_the_first_reason_kept() -> None:
    streams = [Stream(), Stream(error="reset"), Stream(error="timeout")]

    assert (num_failed(streams), first_error(streams)) == (2, "reset")
