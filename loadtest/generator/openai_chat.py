"""OpenAI's chat completions and completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from loadtest.generator.wire import (
    DONE,
    OPENAI_END,
    Message,
    NumTokens,
    Part,
    UnreadableError,
    Usage,
    Wire,
    Wording,
    conversation,
    error_code,
    reader,
    usage_of,
    vllm_fields,
)


def _chat_fields(wording: Wording) -> dict[str, Any]:
    fields = vllm_fields(wording)
    return {**fields, "stream_options": {"include_usage": True}} if wording.is_stream else fields


def _text(messages: Sequence[Message]) -> bytes:
    return b'"prompt":"' + b" ".join(message.content[1:-1] for message in messages) + b'"'


class _Details(msgspec.Struct):
    cached_tokens: NumTokens | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: NumTokens | None = None
    completion_tokens: NumTokens | None = None
    prompt_tokens_details: _Details | None = None

    def usage(self) -> Usage:
        details = self.prompt_tokens_details
        return Usage(
            self.prompt_tokens,
            None if details is None else details.cached_tokens,
            self.completion_tokens,
        )


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    text: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: Any = None
    code: Any = None
    type: Any = None

    def failure(self, unnamed: str) -> str | None:
        """The code of the error that this is, if it is one.

        Older vLLM, SGLang and TensorRT-LLM write an error's fields where those of an answer are.

        Source: sglang/srt/entrypoints/openai/protocol.py (`ErrorResponse`).
        """
        if self.error is not None:
            return error_code(self.error) or unnamed
        if self.object == "error":
            return error_code({"code": self.code, "type": self.type}) or unnamed
        return None


_read_chunk = reader(_Chunk)


def _openai_event(data: bytes) -> Part:
    if data == OPENAI_END:
        return DONE
    chunk = _read_chunk(data)
    if (error := chunk.failure("error_event")) is not None:
        return Part(error=error)
    usage = usage_of(chunk.usage)
    if not chunk.choices:
        return Part(usage=usage)
    text, has_tokens = _said(chunk.choices[0])
    return Part(has_tokens, text, usage)


def _openai_whole(data: bytes) -> Part:
    chunk = _read_chunk(data)
    if (error := chunk.failure("response_failed")) is not None:
        return Part(error=error)
    if not chunk.choices:
        raise UnreadableError
    text, has_tokens = _said(chunk.choices[0])
    return Part(has_tokens, text, usage_of(chunk.usage), is_last=True)


def _said(choice: _Choice) -> tuple[str, bool]:
    if choice.text is not None:
        return choice.text, bool(choice.text)
    delta = choice.delta or choice.message
    if delta is None:
        return "", False
    text = delta.content or ""
    thought = delta.reasoning or delta.reasoning_content
    has_calls = bytes(delta.tool_calls) not in (b"", b"null", b"[]")
    return text, bool(text or thought or has_calls)


CHAT = Wire(
    "/v1/chat/completions", "max_tokens", _chat_fields, conversation(b"messages"),
    _openai_event, _openai_whole,
)  # fmt: skip
COMPLETIONS = Wire(
    "/v1/completions", "max_tokens", _chat_fields, _text, _openai_event, _openai_whole
)
