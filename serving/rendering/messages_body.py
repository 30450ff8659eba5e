"""Bodies of `/v1/messages` and `/v1/messages/count_tokens`, Anthropic's dialect.

Source: vllm/entrypoints/anthropic/protocol.py, vLLM 0.32.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from serving.rendering.bodies import MAX_STOP_STRINGS, Body


class AnthropicTool(Body):
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    defer_loading: bool | None = None


class AnthropicMessage(Body):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class _AnthropicBody(Body):
    model: str
    messages: list[AnthropicMessage]
    system: str | list[dict[str, Any]] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: str) -> str:
        if not value:
            raise ValueError("Model is required")
        return value


class MessagesBody(_AnthropicBody):
    """`/v1/messages`."""

    max_tokens: int
    stop_sequences: Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None = None
    stream: bool | None = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    cache_salt: str | None = Field(None, min_length=1, max_length=1024)

    @field_validator("max_tokens")
    @classmethod
    def _check_max_tokens(cls, value: int) -> int:
        if value <= 0:
            raise ValueError("max_tokens must be positive")
        return value


class CountTokensBody(_AnthropicBody):
    """`/v1/messages/count_tokens`."""
