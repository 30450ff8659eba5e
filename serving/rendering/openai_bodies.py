"""Bodies of `/v1/chat/completions` and `/v1/completions`.

Source: protocol.py in vllm/entrypoints/openai/{chat_completion,completion}, vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from serving.rendering.bodies import (
    Body,
    ChatMessage,
    GenerationBody,
    TokenId,
    Tool,
    check_generation_prompt,
)
from serving.rendering.refusal import invalid

MAX_PROMPTS = 1024


def _or_zero(value: Any) -> Any:
    return 0 if value is None else value


TopLogprobs = Annotated[int, BeforeValidator(_or_zero)]


class StreamOptions(Body):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class _SampledBody(GenerationBody):
    n: int | None = 1
    min_tokens: int = 0
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    echo: bool = False

    @model_validator(mode="before")
    @classmethod
    def _check_stream_options(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("stream_options") and not data.get("stream"):
            raise invalid(
                "Stream options can only be defined when `stream=True`.", "stream_options"
            )
        return data


class ChatBody(_SampledBody):
    """`/v1/chat/completions`."""

    messages: list[ChatMessage]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: TopLogprobs = 0
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = "none"
    reasoning_effort: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, str]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_tools(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("tools") == []:
            raise invalid(
                "`tools` must not be an empty array. Either provide at least one tool or omit the "
                "field entirely.",
                "tools",
            )
        if data.get("tools") and "tool_choice" not in data:
            data = {**data, "tool_choice": "auto"}
        if data.get("tool_choice") not in (None, "none") and not data.get("tools"):
            raise invalid("When using `tool_choice`, `tools` must be set.", "tool_choice")
        return data

    @model_validator(mode="before")
    @classmethod
    def _check_logprobs(cls, data: Any) -> Any:
        if isinstance(data, dict):
            top = _checked_count(data, "top_logprobs")
            _checked_count(data, "prompt_logprobs")
            if top and not data.get("logprobs"):
                raise invalid(
                    "when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs"
                )
        return data

    @model_validator(mode="before")
    @classmethod
    def _check_generation_prompt(cls, data: Any) -> Any:
        check_generation_prompt(data)
        return data


class CompletionBody(_SampledBody):
    """`/v1/completions`."""

    prompt: list[TokenId] | list[list[TokenId]] | str | list[str] | None = None
    max_tokens: int | None = 16
    n: int = 1
    logprobs: int | None = None
    suffix: str | None = None
    add_special_tokens: bool = True

    @model_validator(mode="before")
    @classmethod
    def _check(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        _checked_count(data, "logprobs")
        prompt = data.get("prompt")
        if prompt is None or prompt == "":
            raise invalid(
                "Either prompt or prompt_embeds must be provided and non-empty.", "prompt"
            )
        is_list = isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt)
        if is_list and len(prompt) > MAX_PROMPTS:
            raise invalid(
                f"prompt list length {len(prompt)} exceeds the maximum allowed count of "
                f"{MAX_PROMPTS}. To increase this limit, set the VLLM_MAX_COMPLETION_PROMPTS "
                "environment variable.",
                "prompt",
            )
        if data.get("max_tokens") is None:
            return {**data, "max_tokens": cls.model_fields["max_tokens"].default}
        return data


def _checked_count(data: Mapping[str, Any], name: str) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise invalid(f"`{name}` must be an integer.", name, value)
    if value < 0 and value != -1:
        raise invalid(f"`{name}` must be a positive value or -1.", name, value)
    return value
