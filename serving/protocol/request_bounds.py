"""What one request may make an engine do before its first token.

Engines validate a body, expand it into sequences and compile its grammars on the event loop that
serves everyone, and pydantic describes every wrong value twenty times over. So a body must be of
bounded size in values, not in bytes alone, and its conversation of the right shape, before an
engine sees it. Text is not looked at; what a field means stays the engine's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from serving.errors import RequestError
from serving.protocol.outside_strings import outside_strings
from serving.protocol.schema_bounds import check_schemas
from serving.settings.gateway import LimitSettings

_TOKENIZING = frozenset({"/tokenize", "/detokenize"})
_POOLING = frozenset(
    {"/v1/embeddings", "/pooling", "/classify", "/v1/score", "/score", "/v1/rerank", "/v2/rerank",
     "/rerank"}
)  # fmt: skip
_RESPONSES = "/v1/responses"
_INPUTS = frozenset(
    {"input", "documents", "queries", "items", "text_1", "text_2", "data_1", "data_2"}
)
"""Fields whose entries are one engine request each, on paths of `_POOLING`."""
_COMPILED = frozenset({"response_format", "structured_outputs", "text", "output_config"})
_UNCONSTRAINED = (b"null", b'"auto"', b'"none"')
_OPERATORS_OWN = frozenset({"vllm_xargs", "kv_transfer_params", "ec_transfer_params"})
"""Fields that reach into how engines move KV blocks between each other, or into plug-ins."""
_MAX_BIASED_TOKENS = 1024
"""Source: MAX_NUM_LOGIT_BIAS_TOKENS in vllm/v1/worker/gpu/sample/logit_bias.py, vLLM 0.32."""
_MAX_NAMED_FIELDS = 65_536
"""As many fields as may be read only to say which of them is too long."""
_MAX_RESPONSES_ITEMS = 1024
_MAX_OTHER_ITEMS = 32
"""pydantic tries each item of a Responses request as 25 types: 233 errors and 7 ms for one that is
none of them."""

_IDS = rb"\[\s*+(?:\d{1,18}\s*+,\s*+)*+\d{1,18}\s*+\]"
_ONE_PROMPT = re.compile(rb"\s*" + _IDS + rb"\s*")
_SEVERAL_PROMPTS = re.compile(rb"\s*\[\s*+(?:" + _IDS + rb"\s*+,\s*+)*+" + _IDS + rb"\s*+\]\s*")
_BEGINS_WITH_ID = re.compile(rb"\[\s*\d")

_NOTHING = msgspec.Raw(b"")
_NULL = msgspec.Raw(b"null")

Fields = dict[str, msgspec.Raw]


class _TokenIds(msgspec.Struct):
    """Fields that may hold token ids, more than there may be other values."""

    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING
    tokens: msgspec.Raw = _NOTHING


class _Part(msgspec.Struct):
    text: str | None = None
    tool: msgspec.Raw = _NULL


class _Message(msgspec.Struct):
    role: str
    content: str | list[str | _Part] | None = None
    name: str | None = None
    tool_calls: list[dict[str, msgspec.Raw]] | None = None


class _Item(msgspec.Struct):
    """Of a Responses request's input."""

    type: str = "message"
    role: str | None = None
    content: str | list[_Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: msgspec.Raw = _NULL
    summary: list[_Part] | None = None
    tools: msgspec.Raw = _NULL

    @property
    def is_common(self) -> bool:
        """Whether it is one of the kinds that agents send, with what these need."""
        match self.type:
            case "message":
                return self.role is not None and self.content is not None
            case "function_call":
                return None not in (self.call_id, self.name, self.arguments)
            case "function_call_output":
                return self.call_id is not None and bytes(self.output) != b"null"
            case "reasoning":
                return self.summary is not None
        return False


class _Format(msgspec.Struct):
    """`response_format`, or the `text` of a Responses request, which holds one."""

    type: Any = None
    format: _Format | None = None


_format_decoder = msgspec.json.Decoder(_Format)
_token_ids_decoder = msgspec.json.Decoder(_TokenIds)
_fields_decoder = msgspec.json.Decoder(Fields)
_messages_decoder = msgspec.json.Decoder(list[_Message])
_conversations_decoder = msgspec.json.Decoder(list[list[_Message]])
_items_decoder = msgspec.json.Decoder(list[_Item])
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def check_bounds(path: str, body: bytes, limits: LimitSettings) -> None:
    """The request costs an engine a bounded effort.

    Args:
        path: of the route.
        body: what `read_envelope` has taken.
        limits: what is accepted.

    Raises:
        RequestError: `invalid_json` (in what `read_envelope` skips), `too_many_values`,
            `too_many_choices`, `too_many_inputs`, `text_too_large`, `unsupported_field`,
            `invalid_type`, `schema_too_large` or `schema_recursive`, with the field in `param`.
    """
    if path in _TOKENIZING and len(body) > limits.max_tokenize_bytes:
        raise RequestError(
            f"{path} takes at most {limits.max_tokenize_bytes} bytes; send the text in pieces",
            code="text_too_large",
        )
    try:
        _check_fields(path, body, limits)
    except msgspec.DecodeError as error:
        raise RequestError(f"The body is not valid JSON: {error}", code="invalid_json") from error


def asks_for_grammar(body: bytes) -> bool:
    """Whether the answer shall follow a schema or grammar of the client's.

    >>> asks_for_grammar(b'{"structured_outputs": {"grammar": "root ::= root"}}')
    True
    >>> asks_for_grammar(b'{"response_format": {"type": "text"}, "text": {"verbosity": "low"}}')
    False
    """
    fields = _fields_decoder.decode(body)
    names = (_COMPILED | {"tool_choice"}) & fields.keys()
    return any(_constrains(name, bytes(fields[name])) for name in names)


def _constrains(name: str, raw: bytes) -> bool:
    """Whether the field asks for more than text as it comes."""
    if raw in _UNCONSTRAINED:
        return False
    if name not in ("text", "response_format"):
        return True
    try:
        given = _format_decoder.decode(raw)
    except msgspec.ValidationError:
        return True
    wanted = given.format if name == "text" else given
    return wanted is not None and wanted.type != "text"


def _check_fields(path: str, body: bytes, limits: LimitSettings) -> None:
    _check_num_values(body, max_values=limits.max_values)
    fields = _fields_decoder.decode(body)
    _check_owned(fields)
    _check_sequences(path, fields, limits)
    _check_biases(fields)
    schemas = [(name, bytes(fields[name])) for name in _COMPILED & fields.keys()]
    schemas += [("tools", bytes(tool)) for tool in _entries(fields.get("tools"))]
    schemas += _check_conversation(path, fields)
    for name, raw in schemas:
        check_schemas(
            name, raw, max_bytes=limits.max_schema_bytes, max_repeat=limits.max_schema_repeat
        )


def _check_num_values(body: bytes, *, max_values: int) -> None:
    """Values are as many as commas outside of texts, but for the token ids of a prompt.

    To be called before anything is read into objects: of a large body's tiny values, its fields
    included, they take twenty times the memory.
    """
    if body.count(b",") <= max_values:
        return
    ids = _token_ids_decoder.decode(body)
    num_ids = sum(_num_ids(bytes(raw)) for raw in (ids.prompt, ids.input, ids.tokens))
    if _num_outside(body, b",") - num_ids <= max_values:
        return
    name = _longest_field(body) if _num_outside(body, b":") <= _MAX_NAMED_FIELDS else None
    raise RequestError(
        f"The body holds more than {max_values} values"
        + ("" if name is None else f"; `{name}` is too long a list"),
        code="too_many_values",
        param=name,
    )


def _num_ids(raw: bytes) -> int:
    """Token ids that count for nothing: all but one of each prompt."""
    if _ONE_PROMPT.fullmatch(raw):
        return raw.count(b",")
    if _SEVERAL_PROMPTS.fullmatch(raw):
        return raw.count(b",") - raw.count(b"[")
    return 0


def _num_outside(raw: bytes, mark: bytes) -> int:
    return sum(piece.count(mark) for piece in outside_strings(raw))


def _longest_field(body: bytes) -> str:
    fields = _fields_decoder.decode(body)
    return max(fields, key=lambda name: _num_outside(bytes(fields[name]), b","))[:64]


def _check_owned(fields: Fields) -> None:
    for name in _OPERATORS_OWN & fields.keys():
        if bytes(fields[name]) != b"null":
            raise RequestError(
                f"`{name}` is not for clients; leave it out", code="unsupported_field", param=name
            )
    priority = fields.get("priority")
    if priority is not None and bytes(priority) not in (b"0", b"null"):
        raise RequestError(
            "`priority` is not for clients; leave it out",
            code="unsupported_field",
            param="priority",
        )


def _check_sequences(path: str, fields: Fields, limits: LimitSettings) -> None:
    """Bound what becomes an engine request each: answers, prompts, inputs."""
    if path in _POOLING:
        for name in _INPUTS & fields.keys():
            num_inputs = _num_prompts(fields[name])
            if num_inputs > limits.max_inputs:
                raise RequestError(
                    f"`{name}` has {num_inputs} entries; send at most {limits.max_inputs} at once",
                    code="too_many_inputs",
                    param=name,
                )
        return
    answers = _to_int(fields.get("n"))
    prompts = _num_prompts(fields.get("prompt")) if path == "/v1/completions" else 1
    if answers * prompts > limits.max_choices:
        param = "n" if answers > 1 else "prompt"
        raise RequestError(
            f"The request asks for {answers * prompts} answers (`n` for each prompt); ask for at "
            f"most {limits.max_choices} at once",
            code="too_many_choices",
            param=param,
        )


def _num_prompts(raw: msgspec.Raw | None) -> int:
    """Entries of a list; token ids are those of one prompt, and so is a text."""
    if raw is None or _BEGINS_WITH_ID.match(bytes(raw)):
        return 1
    return max(len(_entries(raw)), 1)


def _check_biases(fields: Fields) -> None:
    raw = fields.get("logit_bias")
    if raw is None or not bytes(raw).startswith(b"{"):
        return
    if len(_object_decoder.decode(raw)) > _MAX_BIASED_TOKENS:
        raise RequestError(
            f"`logit_bias` names more than {_MAX_BIASED_TOKENS} tokens",
            code="too_many_values",
            param="logit_bias",
        )


def _check_conversation(path: str, fields: Fields) -> list[tuple[str, bytes]]:
    """The first message of the wrong shape is refused; the tools that messages bring along."""
    tools: list[msgspec.Raw] = []
    if "messages" in fields:
        tools += _tools_of(_conversation("messages", fields["messages"]))
    if "input" in fields and path == _RESPONSES:
        tools += _check_items(fields["input"])
    elif "input" in fields and b"{" in bytes(fields["input"])[:64]:
        tools += _tools_of(_conversation("input", fields["input"]))
    return [("messages", raw) for raw in map(bytes, tools) if raw != b"null"]


def _conversation(name: str, raw: msgspec.Raw) -> list[_Message]:
    try:
        if bytes(raw)[1:64].lstrip().startswith(b"["):
            return [message for some in _conversations_decoder.decode(raw) for message in some]
        return _messages_decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise _wrong(name, error) from error


def _check_items(raw: msgspec.Raw) -> list[msgspec.Raw]:
    if bytes(raw)[:1] == b'"':
        return []
    try:
        items = _items_decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise _wrong("input", error) from error
    num_other = sum(not item.is_common for item in items)
    if len(items) > _MAX_RESPONSES_ITEMS or num_other > _MAX_OTHER_ITEMS:
        raise RequestError(
            f"`input` has {len(items)} items, {num_other} of them neither messages, calls nor "
            f"reasoning; send at most {_MAX_RESPONSES_ITEMS}, and {_MAX_OTHER_ITEMS} of those",
            code="too_many_values",
            param="input",
        )
    return [item.tools for item in items]


def _tools_of(messages: Iterable[_Message]) -> list[msgspec.Raw]:
    contents = (message.content for message in messages)
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return [part.tool for part in parts if isinstance(part, _Part)]


def _entries(raw: msgspec.Raw | None) -> list[msgspec.Raw]:
    is_list = raw is not None and bytes(raw)[:1] == b"["
    return _list_decoder.decode(raw) if is_list and raw is not None else []


def _to_int(raw: msgspec.Raw | None) -> int:
    """A positive number, else 1: anything else is the engine's to refuse."""
    text = b"" if raw is None else bytes(raw)
    return max(int(text[:18]), 1) if text.isdigit() else 1


def _wrong(name: str, error: msgspec.DecodeError) -> RequestError:
    """In the words of the API: which message, and what it should be."""
    what, _, place = str(error).partition(" - at `$")
    param = f"{name}{place.rstrip('`')}" if place else name
    if not isinstance(error, msgspec.ValidationError):
        return RequestError(f"`{name}` is not valid JSON: {what}", code="invalid_json", param=name)
    what = what.replace("`object`", "an object").replace("`array`", "a list")
    return RequestError(f"`{param}`: {what}", code="invalid_type", param=param)
