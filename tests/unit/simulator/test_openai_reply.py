"""Which of several choices an answer's usage tells of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.simulator.generation import CacheUse, Delta, TokenStream
from serving.simulator.openai_reply import ChatShapes, ChunkOptions, CompletionShapes, OpenAIReply
from serving.simulator.reply import Envelope

ENVELOPE = Envelope("the-id", "sim", 1_790_000_000, "fingerprint")
CHOICES = [
    Delta(0, "a", 1, None, None),
    Delta(1, "b", 2, None, None),
    Delta(1, "c", 3, "length", None),
    Delta(0, "d", 4, "length", None),
]
"""The second choice ends first."""
OTHER_PROMPT = [Delta(2, "a", 1, "stop", None), Delta(3, "b", 2, "stop", None)]


def reply(shapes: ChatShapes | CompletionShapes, *, num_prompts: int = 1) -> OpenAIReply:
    num_choices = 2 * num_prompts
    stream = TokenStream([str(i) for i in range(num_choices)], [80] * num_prompts, 2)
    stream.cache_uses = [CacheUse(10 + i, 20 + i) for i in range(num_choices)]
    return OpenAIReply(shapes, ENVELOPE, stream, ChunkOptions(include_usage=True))


def streamed(spoken: OpenAIReply, deltas: list[Delta]) -> dict[str, Any]:
    for delta in deltas:
        spoken.chunks([delta])
    last = spoken.closing().decode().split("\n\n")[0]
    details: dict[str, Any] = json.loads(last.removeprefix("data: "))["usage"]
    return dict(details["prompt_tokens_details"])


def whole(spoken: OpenAIReply, deltas: list[Delta]) -> dict[str, Any]:
    return dict(spoken.whole(deltas)["usage"]["prompt_tokens_details"])


def test_a_stream_tells_what_its_first_token_found() -> None:
    assert streamed(reply(ChatShapes()), CHOICES) == {
        "cached_tokens": 10, "created_cache_tokens": 20,
    }  # fmt: skip
    assert streamed(reply(CompletionShapes()), CHOICES) == {"cached_tokens": 10}


def test_a_whole_answer_tells_what_the_choice_found_that_ended_last() -> None:
    details = whole(reply(ChatShapes()), CHOICES)
    assert (details["cached_tokens"], details["created_cache_tokens"]) == (10, 20)
    ends = [CHOICES[0], CHOICES[1], CHOICES[3], CHOICES[2]]
    details = whole(reply(ChatShapes()), ends)
    assert (details["cached_tokens"], details["created_cache_tokens"]) == (11, 21)


@pytest.mark.parametrize("deltas", [CHOICES + OTHER_PROMPT, OTHER_PROMPT + CHOICES])
def test_of_several_prompts_the_last_counts(deltas: list[Delta]) -> None:
    spoken = reply(CompletionShapes(), num_prompts=2)
    assert whole(spoken, deltas)["cached_tokens"] == 13
