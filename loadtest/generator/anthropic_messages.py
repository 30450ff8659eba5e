"""Anthropic's messages."""

from __future__ import annotations

from typing import Any

import msgspec

from loadtest.generator.wire import (
    DONE,
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


class _MessagesUsage(msgspec.Struct):
    """Input tokens are only those that were neither read from the prefix cache nor written to it.

    Source: vllm/entrypoints/anthropic/serving.py, vLLM 0.32 (`_build_anthropic_usage`).
    """

    input_tokens: NumTokens | None = None
    cache_creation_input_tokens: NumTokens | None = None
    cache_read_input_tokens: NumTokens | None = None
    output_tokens: NumTokens | None = None

    def usage(self) -> Usage:
        prompt_tokens, cached_tokens = self.input_tokens, self.cache_read_input_tokens
        if prompt_tokens is not None:
            prompt_tokens += (cached_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return Usage(prompt_tokens, cached_tokens, self.output_tokens)


class _MessagesDelta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None


class _Begun(msgspec.Struct):
    usage: _MessagesUsage | None = None


class _MessagesEvent(msgspec.Struct):
    type: str = ""
    delta: _MessagesDelta | None = None
    message: _Begun | None = None
    usage: _MessagesUsage | None = None
    error: Any = None


class _MessagesAnswer(msgspec.Struct):
    content: list[_MessagesDelta] | None = None
    usage: _MessagesUsage | None = None
    error: Any = None


_read_messages_event = reader(_MessagesEvent)
_read_messages_answer = reader(_MessagesAnswer)


def _messages_event(data: bytes) -> Part:
    if data == OPENAI_END:
        return Part()  # some servers add it; what ends this stream is another event
    event = _read_messages_event(data)
    if event.error is not None:
        return Part(error=error_code(event.error) or "error_event")
    match event.type:
        case "content_block_delta" if event.delta is not None:
            delta = event.delta
            text = delta.text or ""
            return Part(bool(text or delta.thinking or delta.partial_json), text)
        case "message_start" if event.message is not None and event.message.usage is not None:
            return Part(usage=event.message.usage.usage())
        case "message_delta" if event.usage is not None:
            return Part(usage=event.usage.usage())
        case "message_stop":
            return DONE
        case "error":
            return Part(error="error_event")
        case _:
            return Part()


def _messages_whole(data: bytes) -> Part:
    answer = _read_messages_answer(data)
    if answer.error is not None:
        return Part(error=error_code(answer.error) or "response_failed")
    if answer.content is None:
        raise UnreadableError
    text = "".join(block.text or "" for block in answer.content)
    usage = usage_of(answer.usage)
    # A block that is no text, such as a call of a tool, has none at all.
    has_tokens = any(block.text != "" for block in answer.content)
    return Part(has_tokens, text, usage, is_last=True)


# Twenty models unless told otherwise, and a thousand at most.
# Source: https://platform.claude.com/docs/en/api/models/list
_MODELS = "/v1/models?limit=1000"

MESSAGES = Wire(
    "/v1/messages", "max_tokens", vllm_fields, conversation(b"messages"),
    _messages_event, _messages_whole, {"anthropic-version": "2023-06-01"}, "x-api-key",
    # Source: vllm/entrypoints/anthropic/protocol.py, vLLM 0.32 (`AnthropicMessagesRequest`).
    knows_ignore_eos=False, models=_MODELS,
)  # fmt: skip
