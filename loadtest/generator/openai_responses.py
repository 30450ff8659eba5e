"""OpenAI's responses."""

from __future__ import annotations

from typing import Any

import msgspec

from loadtest.generator.wire import (
    OPENAI_END,
    NumTokens,
    Part,
    UnreadableError,
    Usage,
    Wire,
    conversation,
    error_code,
    reader,
    usage_of,
    vllm_fields,
)


class _InputDetails(msgspec.Struct):
    cached_tokens: NumTokens | None = None


class _ResponsesUsage(msgspec.Struct):
    input_tokens: NumTokens | None = None
    output_tokens: NumTokens | None = None
    input_tokens_details: _InputDetails | None = None

    def usage(self) -> Usage:
        details = self.input_tokens_details
        return Usage(
            self.input_tokens,
            None if details is None else details.cached_tokens,
            self.output_tokens,
        )


class _Content(msgspec.Struct):
    text: str | None = None


class _Item(msgspec.Struct):
    """One part of an answer; what is no message, such as a call of a tool, has no content."""

    content: list[_Content] | None = None

    @property
    def has_tokens(self) -> bool:
        return self.content is None or any(content.text != "" for content in self.content)


class _Response(msgspec.Struct):
    status: str = ""
    usage: _ResponsesUsage | None = None
    output: list[_Item] | None = None
    error: Any = None

    def part(self) -> Part:
        items = self.output or ()
        text = "".join(content.text or "" for item in items for content in item.content or ())
        has_tokens = any(item.has_tokens for item in items)
        error = None if self.error is None else error_code(self.error) or "response_failed"
        return Part(has_tokens, text, usage_of(self.usage), error, is_last=True)


class _ResponsesEvent(msgspec.Struct):
    type: str = ""
    delta: Any = None
    response: _Response | None = None
    code: Any = None
    error: Any = None


_read_responses_event = reader(_ResponsesEvent)
_read_response = reader(_Response)


def _responses_event(data: bytes) -> Part:
    if data == OPENAI_END:
        return Part()  # some servers add it; what ends this stream is another event
    event = _read_responses_event(data)
    if event.error is not None:  # no event of this API: a gateway has lost its engine
        return Part(error=error_code(event.error) or "error_event")
    match event.type:
        case "response.output_text.delta":
            return Part(bool(event.delta), str(event.delta))
        case "response.completed" | "response.incomplete" if event.response is not None:
            return event.response.part()._replace(has_tokens=False, text="")
        case "response.failed" if event.response is not None:
            return Part(error=event.response.part().error or "response_failed")
        case "error":
            return Part(error=error_code({"code": event.code}) or "error_event")
        case kind:
            return Part(has_tokens=kind.endswith(".delta") and bool(event.delta))


def _responses_whole(data: bytes) -> Part:
    response = _read_response(data)
    if response.output is None and response.error is None:
        raise UnreadableError
    return response.part()


RESPONSES = Wire(
    "/v1/responses", "max_output_tokens", vllm_fields, conversation(b"input"),
    _responses_event, _responses_whole,
)  # fmt: skip
