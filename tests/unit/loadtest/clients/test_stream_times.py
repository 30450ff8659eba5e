"""What a client that reads line by line makes of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtest.clients.stream_times import StreamTimes


def chunk(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\r\n"


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}\n'
DONE = b"data: [DONE]\n"


def heard(*lines: bytes) -> StreamTimes:
    """A stream that began at 10 s, with a line every second."""
    times = StreamTimes(begun=10.0)
    for now, line in enumerate(lines, start=11):
        times.take(line, float(now))
    return times


def test_a_whole_stream() -> None:
    times = heard(
        chunk(role="assistant", content=""), b"\r\n", b": ping\n", chunk(content="a"), b"\n",
        chunk(content="b"), chunk(content="c"), USAGE, DONE,
    )  # fmt: skip

    assert times.error is None
    assert times.ttft_s == 4.0
    assert times.gaps_s == [2.0, 1.0]
    assert times.output_tokens == 3
    assert times.tpot_s == 1.5


@pytest.mark.parametrize(
    "delta", [{"reasoning": "so"}, {"tool_calls": [{"index": 0}]}, {"content": "a"}]
)
def test_what_counts_as_a_token(delta: dict[str, Any]) -> None:
    assert heard(chunk(**delta)).ttft_s == 1.0


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ((), "truncated"),
        ((chunk(content="a"), USAGE), "truncated"),
        ((chunk(content=""), DONE), "empty_answer"),
        ((chunk(content="a"), b"data: {oops\n", DONE), "bad_answer"),
        ((chunk(content="a"), b'data: {"error": {"code": "engine_lost"}}\n', DONE), "engine_lost"),
    ],
)
def test_why_a_stream_is_not_whole(lines: tuple[bytes, ...], error: str) -> None:
    assert heard(*lines).error == error


def test_tokens_that_say_nothing_are_an_answer() -> None:
    assert heard(USAGE, DONE).error is None


def test_one_token_has_no_time_per_further_token() -> None:
    usage = b'data: {"choices": [], "usage": {"completion_tokens": 1}}\n'

    assert heard(chunk(content="a"), usage, DONE).tpot_s is None


def test_without_usage_there_is_no_time_per_token() -> None:
    assert heard(chunk(content="a"), chunk(content="b"), DONE).tpot_s is None
