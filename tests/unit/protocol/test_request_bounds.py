"""Bodies made to hurt an engine are refused; what SDKs and agents send is not."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import pytest

from serving.errors import RequestError
from serving.protocol.request_bounds import check_bounds
from serving.settings.gateway import LimitSettings

CHAT = "/v1/chat/completions"
LIMITS = LimitSettings()
MESSAGES = [{"role": "user", "content": "hello"}]


def check(path: str, **fields: Any) -> None:
    check_bounds(path, json.dumps({"model": "m", **fields}).encode(), LIMITS)


def refusal(path: str, **fields: Any) -> tuple[str, str | None]:
    with pytest.raises(RequestError) as caught:
        check(path, **fields)
    return caught.value.code, caught.value.param


def as_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def as_tool(schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"anyOf": [{"type": "string", "maxLength": 65_535}, {"type": "null"}]},
                "children": {"type": "array", "maxItems": 100, "items": {"$ref": "#/$defs/node"}},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                "minItems": {"type": "integer"},
            },
        }
    },
    "$ref": "#/$defs/node",
}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": MESSAGES, "n": 2, "priority": 0, "vllm_xargs": None}),
        (CHAT, {"messages": MESSAGES, "response_format": as_format(TREE)}),
        (CHAT, {"messages": MESSAGES, "tools": [as_tool(TREE)] * 20}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}]}),
        (CHAT, {"messages": [{"role": "user", "content": ", " * 100_000}]}),
        (
            CHAT,
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {"id": "1", "type": "function", "function": {"name": "f"}},
                        ],
                    },
                    {"role": "tool", "tool_call_id": "1", "content": "4"},
                ]
                * 200
            },
        ),
        (CHAT, {"messages": []}),
        (CHAT, {"structured_outputs": {"regex": r"\d{4}-\d{2}-\d{2}"}}),
        (CHAT, {"structured_outputs": {"choice": ["yes", "no"]}}),
        ("/v1/completions", {"prompt": [5] * 100_000}),
        ("/v1/completions", {"prompt": ["a"] * 64}),
        ("/v1/completions", {"prompt": [[5] * 10_000] * 2, "n": 32}),
        ("/v1/embeddings", {"input": ["a, b"] * 2048}),
        ("/v1/embeddings", {"input": [[5] * 50] * 2048}),
        ("/v1/embeddings", {"input": [5] * 100_000}),
        ("/v1/embeddings", {"input": [MESSAGES, MESSAGES]}),
        ("/v1/rerank", {"query": "a", "documents": ["a"] * 1000}),
        ("/v1/score", {"text_1": "a", "text_2": ["b", "c"]}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/responses", {"input": [{"type": "reasoning", "id": "r", "summary": []}] * 500}),
        (
            "/v1/responses",
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
                    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "1", "output": "4"},
                    {"type": "reasoning", "id": "r", "summary": []},
                ],
                "text": {"format": {"type": "json_schema", "name": "x", "schema": TREE}},
            },
        ),
        (
            "/v1/messages",
            {
                "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
                "tools": [{"name": "f", "input_schema": TREE}],
            },
        ),
        ("/tokenize", {"prompt": "x" * 200_000}),
        ("/detokenize", {"tokens": [5] * 100_000}),
    ],
)
def test_what_clients_send_is_taken(path: str, fields: dict[str, Any]) -> None:
    check(path, **fields)


ENDLESS = {"type": "array", "minItems": 10**9}
CYCLE = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
SCHEMAS = {
    "min-items": (ENDLESS, "schema_too_large"),
    "max-items": ({"type": "array", "maxItems": 1e12}, "schema_too_large"),
    "huge-number": ({"type": "array", "maxItems": 10**400}, "schema_too_large"),
    "many-items": ({"anyOf": [{"type": "array", "minItems": 9000}] * 2}, "schema_too_large"),
    "min-length": ({"type": "string", "minLength": 10**9}, "schema_too_large"),
    "pattern": ({"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"}, "schema_too_large"),
    "properties": ({"properties": {f"p{n}": {} for n in range(1000)}}, "schema_too_large"),
    "bytes": ({"enum": ["x" * 100] * 1000}, "schema_too_large"),
    "self": ({"$ref": "#"}, "schema_recursive"),
    "cycle": (CYCLE, "schema_recursive"),
    "all-of": ({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}, "schema_recursive"),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_expensive_schemas_are_refused_wherever_they_stand(name: str) -> None:
    schema, code = SCHEMAS[name]
    assert refusal(CHAT, response_format=as_format(schema)) == (code, "response_format")
    assert refusal(CHAT, structured_outputs={"json": schema}) == (code, "structured_outputs")
    as_text = {"json": json.dumps(schema)}
    assert refusal(CHAT, structured_outputs=as_text) == (code, "structured_outputs")
    tag = {"format": {"type": "tag", "content": {"type": "json_schema", "json_schema": schema}}}
    assert refusal(CHAT, response_format=tag) == (code, "response_format")
    assert refusal(CHAT, tools=[as_tool({}), as_tool(schema)]) == (code, "tools")
    text = {"format": {"type": "json_schema", "schema": schema}}
    assert refusal("/v1/responses", input="a", text=text) == (code, "text")
    claude = [{"name": "f", "input_schema": schema}]
    assert refusal("/v1/messages", messages=MESSAGES, tools=claude) == (code, "tools")
    definition = {"type": "tool_definition", "definition": claude[0]}
    brought = [{"role": "system", "content": [{"type": "tool_addition", "tool": definition}]}]
    assert refusal("/v1/messages", messages=brought) == (code, "messages")


@pytest.mark.parametrize(
    "constraint",
    [
        {"regex": "a{1000000}"},
        {"regex": "(a{1000}){1000}"},
        {"regex": "a{%s}" % ("9" * 5000)} | {"grammar": "root ::= [a]{99999}"},
        {"grammar": 'root ::= "a"{1,1000000}'},
        {"grammar": 'start: "a"~1..1000000'},
        {"choice": [f"item-{n}" for n in range(100_000)]},
        {"regex": "[" * 100_000},
    ],
)
def test_expensive_grammars_are_refused(constraint: dict[str, Any]) -> None:
    code, param = refusal(CHAT, structured_outputs=constraint)
    assert code in ("schema_too_large", "too_many_values")
    assert param == "structured_outputs"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (5, "messages"),
        ([5], "messages[0]"),
        ([{"role": "user", "content": 5}] * 9, "messages[0].content"),
        ([*MESSAGES, {"role": 5, "content": "x"}], "messages[1].role"),
        ([{"content": "x"}], "messages[0]"),
        ([{"role": "user", "content": [5]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"text": 5}]}], "messages[0].content[0].text"),
        ([{"role": "assistant", "tool_calls": 5}], "messages[0].tool_calls"),
    ],
)
def test_the_first_wrong_message_is_named(messages: Any, param: str) -> None:
    for path in (CHAT, "/v1/messages", "/tokenize"):
        assert refusal(path, messages=messages) == ("invalid_type", param)


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        (CHAT, {"messages": [{"role": "user", "content": 5}] * 9000},
         ("too_many_values", "messages")),
        (CHAT, {"messages": MESSAGES * 9000}, ("too_many_values", "messages")),
        (CHAT, {"stop_token_ids": ["x"] * 9000}, ("too_many_values", "stop_token_ids")),
        (CHAT, {"tools": [5] * 9000}, ("too_many_values", "tools")),
        (CHAT, {"logit_bias": {str(n): 1 for n in range(1025)}}, ("too_many_values", "logit_bias")),
        (CHAT, {"n": 65}, ("too_many_choices", "n")),
        (CHAT, {"n": 10**17}, ("too_many_choices", "n")),
        (CHAT, {"n": 10**30}, ("too_many_choices", "n")),
        (CHAT, {"vllm_xargs": {"kv_transfer_params": "x"}}, ("unsupported_field", "vllm_xargs")),
        (CHAT, {"kv_transfer_params": {}}, ("unsupported_field", "kv_transfer_params")),
        (CHAT, {"priority": -5}, ("unsupported_field", "priority")),
        ("/v1/completions", {"prompt": ["a"] * 65}, ("too_many_choices", "prompt")),
        ("/v1/completions", {"prompt": [[5]] * 65}, ("too_many_choices", "prompt")),
        ("/v1/completions", {"prompt": ["a"] * 33, "n": 2}, ("too_many_choices", "n")),
        ("/v1/completions", {"prompt": [5] * 9000 + ["x"]}, ("too_many_values", "prompt")),
        ("/detokenize", {"tokens": [-1] * 9000}, ("too_many_values", "tokens")),
        ("/tokenize", {"prompt": "x" * 2**20}, ("text_too_large", None)),
        ("/v1/embeddings", {"input": ["a"] * 2049}, ("too_many_inputs", "input")),
        ("/v1/rerank", {"documents": ["a"] * 2049}, ("too_many_inputs", "documents")),
        ("/v1/score", {"text_2": ["a"] * 2049}, ("too_many_inputs", "text_2")),
        ("/v1/responses", {"input": [{}] * 33}, ("too_many_values", "input")),
        ("/v1/responses", {"input": [5]}, ("invalid_type", "input[0]")),
    ],
)  # fmt: skip
def test_too_much_is_refused(path: str, fields: dict[str, Any], expected: object) -> None:
    assert refusal(path, **fields) == expected


DEEP = '{"":' * 55 + "1" + "}" * 55


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(CHAT, ",".join(f'"{n:06x}":1' for n in range(90_000)), id="fields"),
        pytest.param(CHAT, '"x":[' + ",".join(['""'] * 500_000) + "]", id="texts"),
        pytest.param(CHAT, '"x":[' + ",".join(['"",1'] * 300_000) + "]", id="texts-and-numbers"),
        pytest.param(
            CHAT,
            '"messages":[{"role":"user","content":['
            + ",".join(['{"tool":' + DEEP + "}"] * 1000)
            + "]}]",
            id="tools-of-parts",
        ),
        pytest.param(
            "/v1/responses",
            '"input":[{"type":"function_call_output","call_id":"c","output":['
            + ",".join([DEEP] * 6000)
            + "]}]",
            id="output",
        ),
        pytest.param(
            "/v1/responses",
            '"input":[{"tools":[' + ",".join([DEEP] * 6000) + "]}]",
            id="tools-of-items",
        ),
    ],
)
def test_a_hostile_body_takes_little_memory(path: str, body: str) -> None:
    content = ("{" + body + "}").encode()
    tracemalloc.start()
    try:
        with contextlib.suppress(RequestError):
            check_bounds(path, content, LIMITS)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 * len(content)


def test_too_many_fields_are_refused_without_a_name() -> None:
    fields = {f"field {n}": 1 for n in range(70_000)}
    assert refusal(CHAT, **fields) == ("too_many_values", None)


def test_a_lone_surrogate_is_not_a_fault_of_the_gateway() -> None:
    for body in (b'{"messages": [{"role": "\\ud800"}]}', b'{"tools": [{"a": "\\ud800"}]}',
                 b'{"\\ud800": 1}'):  # fmt: skip
        with pytest.raises(RequestError) as caught:
            check_bounds(CHAT, body, LIMITS)
        assert caught.value.code == "invalid_json"
