"""What the load generator writes and reads in each API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadtest.generator.dialects import WIRES
from loadtest.generator.wire import DONE, Message, Part, UnreadableError, Usage, Wording
from loadtest.workload.request import Dialect

TALK = [Message("user", b'"hi"'), Message("assistant", b'"a \\"b\\""'), Message("user", b'"go on"')]
DIALECTS: list[Dialect] = list(WIRES)


def body(dialect: Dialect, *, is_stream: bool = True, ignores_eos: bool = True) -> dict[str, Any]:
    wire = WIRES[dialect]
    wording = Wording("m", is_stream, ignores_eos, 0.0)
    document: dict[str, Any] = json.loads(wire.body(wire.head(wording), TALK, 7))
    return document


def event(dialect: Dialect, document: dict[str, Any]) -> Part:
    return WIRES[dialect].read_event(json.dumps(document).encode())


def whole(dialect: Dialect, document: dict[str, Any]) -> Part:
    return WIRES[dialect].read_whole(json.dumps(document).encode())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_body_names_the_model_and_asks_for_a_fixed_length(dialect: Dialect) -> None:
    document = body(dialect)

    assert document["model"] == "m"
    assert document["stream"] is True
    assert document["ignore_eos"] is True
    assert document[WIRES[dialect].limit] == 7
    assert "ignore_eos" not in body(dialect, ignores_eos=False)


def test_a_conversation_is_sent_as_it_went() -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": 'a "b"'},
        {"role": "user", "content": "go on"},
    ]

    assert body("chat")["messages"] == messages
    assert body("messages")["messages"] == messages
    assert body("responses")["input"] == messages
    assert body("completions")["prompt"] == 'hi a "b" go on'


def test_openai_streams_are_asked_for_their_usage() -> None:
    assert body("chat")["stream_options"] == {"include_usage": True}
    assert "stream_options" not in body("chat", is_stream=False)


@pytest.mark.parametrize(
    ("choice", "part"),
    [
        ({"delta": {"role": "assistant", "content": ""}}, Part()),
        ({"delta": {"content": "a"}}, Part(True, "a")),
        ({"delta": {"content": None, "reasoning": "hm"}}, Part(True)),
        ({"delta": {"reasoning_content": "hm"}}, Part(True)),
        ({"delta": {"tool_calls": [{"index": 0}]}}, Part(True)),
        ({"delta": {"tool_calls": []}}, Part()),
        ({"delta": {}, "finish_reason": "stop"}, Part()),
        ({"text": "a"}, Part(True, "a")),
        ({"text": "", "finish_reason": "length"}, Part()),
    ],
)
def test_only_what_the_model_says_counts_as_tokens(choice: dict[str, Any], part: Part) -> None:
    assert event("chat", {"choices": [{"index": 0, **choice}]}) == part


def test_openai_usage() -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    message = {"role": "assistant", "content": "abc"}

    assert event("chat", {"choices": [], "usage": usage}).usage == Usage(5, 4, 3)
    assert whole("chat", {"choices": [{"message": message}], "usage": usage}) == Part(
        True, "abc", Usage(5, 4, 3), is_last=True
    )
    assert event("chat", {"choices": [], "usage": {"prompt_tokens": 5}}).usage == Usage(5)


def test_responses() -> None:
    usage = {"input_tokens": 5, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}}
    output = [{"type": "message", "content": [{"type": "output_text", "text": "abc"}]}]
    response = {"status": "completed", "usage": usage, "output": output}

    assert event("responses", {"type": "response.output_text.delta", "delta": "a"}) == Part(
        True, "a"
    )
    assert event("responses", {"type": "response.created", "response": {}}) == Part()
    assert event("responses", {"type": "response.completed", "response": response}) == Part(
        usage=Usage(5, 4, 3), is_last=True
    )
    assert whole("responses", response) == Part(True, "abc", Usage(5, 4, 3), is_last=True)


def test_messages() -> None:
    begun = {"type": "message_start", "message": {"usage": {"input_tokens": 5}}}
    said = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}
    ended = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 3}}
    answer = {"content": [{"type": "text", "text": "abc"}], "usage": {"output_tokens": 3}}

    assert event("messages", begun) == Part(usage=Usage(5))
    assert event("messages", said) == Part(True, "a")
    assert event("messages", ended) == Part(usage=Usage(None, None, 3))
    assert event("messages", {"type": "message_stop"}).is_last
    assert event("messages", {"type": "ping"}) == Part()
    assert whole("messages", answer) == Part(True, "abc", Usage(None, None, 3), is_last=True)


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"input_tokens": 20720}, Usage(20720)),
        ({"input_tokens": 240, "cache_read_input_tokens": 20480}, Usage(20720, 20480)),
        ({"input_tokens": 240, "cache_read_input_tokens": None}, Usage(240)),
        (
            {
                "input_tokens": 240,
                "cache_read_input_tokens": 19456,
                "cache_creation_input_tokens": 1024,
            },
            Usage(20720, 19456),
        ),
        ({"cache_read_input_tokens": 19456}, Usage(None, 19456)),
    ],
)
def test_what_was_cached_is_a_part_of_the_prompt(counts: dict[str, Any], usage: Usage) -> None:
    ended = {"type": "message_delta", "delta": {}, "usage": counts}

    assert event("messages", ended).usage == usage
    assert whole("messages", {"content": [], "usage": counts}).usage == usage


@pytest.mark.parametrize(
    ("dialect", "document", "has_tokens"),
    [
        ("chat", {"choices": [{"message": {"content": ""}}]}, False),
        ("chat", {"choices": [{"message": {"content": None, "reasoning": "hm"}}]}, True),
        ("chat", {"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}, True),
        ("completions", {"choices": [{"text": ""}]}, False),
        ("responses", {"output": []}, False),
        ("responses", {"output": [{"type": "message", "content": [{"text": ""}]}]}, False),
        ("responses", {"output": [{"type": "message", "content": [{"refusal": "no"}]}]}, True),
        ("responses", {"output": [{"type": "function_call", "arguments": "{}"}]}, True),
        ("messages", {"content": []}, False),
        ("messages", {"content": [{"type": "text", "text": ""}]}, False),
        ("messages", {"content": [{"type": "thinking", "thinking": "hm"}]}, True),
        ("messages", {"content": [{"type": "tool_use", "input": {}}]}, True),
    ],
)
def test_what_is_said_without_text_counts_as_tokens(
    dialect: Dialect, document: dict[str, Any], has_tokens: bool
) -> None:
    assert whole(dialect, document).has_tokens == has_tokens


def test_the_end_of_another_api_is_no_end() -> None:
    ends = {dialect: WIRES[dialect].read_event(b"[DONE]") for dialect in DIALECTS}

    assert ends == {"chat": DONE, "completions": DONE, "responses": Part(), "messages": Part()}


@pytest.mark.parametrize(
    ("dialect", "document", "code"),
    [
        ("chat", {"error": {"message": "m", "type": "server_error", "code": "lost"}}, "lost"),
        ("chat", {"error": {"type": "server_error", "code": 500}}, "server_error"),
        ("chat", {"error": "oops"}, "error_event"),
        ("chat", {"object": "error", "message": "m", "type": "t", "code": 500}, "t"),
        ("chat", {"object": "error", "message": "m", "code": "lost"}, "lost"),
        ("chat", {"object": "error", "message": "m", "code": 500}, "error_event"),
        ("chat", {"choices": [{"delta": {}}], "error": {"code": "lost"}}, "lost"),
        ("responses", {"type": "error", "code": "lost"}, "lost"),
        ("responses", {"type": "error"}, "error_event"),
        ("responses", {"type": "error", "code": 500}, "error_event"),
        ("responses", {"error": {"type": "api_error", "code": "engine_failed"}}, "engine_failed"),
        ("responses", {"error": {"type": "server_error", "code": 500}}, "server_error"),
        ("responses", {"error": "oops"}, "error_event"),
        ("responses", {"type": "response.failed", "response": {"error": {"code": "x"}}}, "x"),
        ("messages", {"type": "error", "error": {"type": "overloaded_error"}}, "overloaded_error"),
        ("messages", {"type": "error"}, "error_event"),
        ("messages", {"error": {"code": "lost"}}, "lost"),
    ],
)
def test_errors_inside_streams(dialect: Dialect, document: dict[str, Any], code: str) -> None:
    assert event(dialect, document).error == code


ERROR = {"message": "m", "type": "server_error", "code": "lost"}
CHOICES = [{"message": {"role": "assistant", "content": "abc"}}]


@pytest.mark.parametrize(
    ("dialect", "document", "code"),
    [
        ("chat", {"error": ERROR}, "lost"),
        ("chat", {"choices": None, "error": "oops"}, "response_failed"),
        ("chat", {"choices": CHOICES, "error": ERROR}, "lost"),
        ("chat", {"choices": CHOICES, "error": None}, None),
        ("chat", {"object": "error", **ERROR}, "lost"),
        ("chat", {"object": "error", **ERROR, "code": 500}, "server_error"),
        ("chat", {"object": "error", "message": "m", "code": 500}, "response_failed"),
        ("completions", {"object": "error", **ERROR}, "lost"),
        ("responses", {"error": ERROR}, "lost"),
        ("responses", {"status": "failed", "output": [], "error": ERROR}, "lost"),
        ("messages", {"type": "error", "error": {"type": "overloaded_error"}}, "overloaded_error"),
        ("messages", {"content": [], "error": "oops"}, "response_failed"),
    ],
)
def test_an_answer_with_an_error_is_one(
    dialect: Dialect, document: dict[str, Any], code: str | None
) -> None:
    assert whole(dialect, document).error == code


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("data", [b"{", b"<html>", b"\xff\xfe", b'"text"', b""])
def test_what_is_no_answer_is_named_so(dialect: Dialect, data: bytes) -> None:
    with pytest.raises(UnreadableError):
        WIRES[dialect].read_event(data)
    with pytest.raises(UnreadableError):
        WIRES[dialect].read_whole(data)


@pytest.mark.parametrize("count", [-1, 2**31, 2**64, 1e400, "3"])
def test_impossible_counts_are_no_answer(count: object) -> None:
    said = json.dumps({"choices": [], "usage": {"prompt_tokens": count}}).encode()
    ended = {"type": "message_delta", "usage": {"output_tokens": count}}
    response = {"output": [], "usage": {"input_tokens_details": {"cached_tokens": count}}}

    with pytest.raises(UnreadableError):
        WIRES["chat"].read_event(said)
    with pytest.raises(UnreadableError):
        event("messages", ended)
    with pytest.raises(UnreadableError):
        whole("responses", response)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_nested_without_end_is_no_answer(dialect: Dialect) -> None:
    deep = b'{"error": ' + b"[" * 100_000

    with pytest.raises(UnreadableError):
        WIRES[dialect].read_event(deep)
    with pytest.raises(UnreadableError):
        WIRES[dialect].read_whole(deep)
    assert WIRES[dialect].refusal(deep, 502) == "http_502"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_without_its_content_is_no_answer(dialect: Dialect) -> None:
    with pytest.raises(UnreadableError):
        WIRES[dialect].read_whole(b"{}")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"error": {"code": "rate_limited", "type": "t"}}', "rate_limited"),
        (b'{"error": {"type": "t" , "code": null}}', "t"),
        (b"<html>Bad Gateway</html>", "http_502"),
        (b"", "http_502"),
        (b"{}", "http_502"),
    ],
)
def test_refusals_are_counted_by_their_code(data: bytes, code: str) -> None:
    assert WIRES["chat"].refusal(data, 502) == code
