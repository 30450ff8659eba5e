"""Request bodies as vLLM accepts them, as far as a simulation has to look.

Fields that only shape the words of an answer are not listed and pass unread, as all unknown fields
do. Source: protocol.py of vllm/entrypoints/openai/{chat_completion,completion,responses},
vllm/entrypoints/anthropic and vllm/entrypoints/serve/tokenize, vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Required, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from typing_extensions import TypedDict

from serving.simulator.refusal import RequestRefused, invalid

MAX_STOP_STRINGS = 4
MAX_PROMPTS = 1024
_MAX_CACHE_SALT_CHARS = 128
_FORBIDDEN_IN_CACHE_SALT = frozenset("@/\\\x00")

TokenId = Annotated[int, Field(ge=0, le=2**63 - 1)]
Stop = str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None


def _or_zero(value: Any) -> Any:
    return 0 if value is None else value


TopLogprobs = Annotated[int, BeforeValidator(_or_zero)]


class ChatMessage(TypedDict, total=False):
    """One message; what else it holds is for the chat template."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # pydantic's way

    role: Required[str]
    content: str | list[str | dict[str, Any]] | None
    tool_calls: list[dict[str, Any]] | None


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class ToolFunction(_Body):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class Tool(_Body):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: ToolFunction

    def for_template(self) -> dict[str, Any]:
        """As chat templates get it: unset fields too, but not those that few models know."""
        function = self.function.model_dump()
        rare = {name for name in ("strict", "defer_loading") if function[name] is None}
        kept = {name: value for name, value in function.items() if name not in rare}
        return {"type": self.type, "function": kept}


class StreamOptions(_Body):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class GenerationBody(_Body):
    """What the OpenAI dialects have in common."""

    model: str | None = None
    stream: bool | None = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Stop = []  # pydantic copies defaults
    stop_token_ids: list[int] | None = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    priority: int = 0
    cache_salt: str | None = None
    request_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_cache_salt(cls, data: Any) -> Any:
        if isinstance(data, dict):
            _check_cache_salt(data.get("cache_salt"))
        return data


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
        _check_generation_prompt(data)
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


class Reasoning(_Body):
    effort: str | None = None


class ResponsesBody(GenerationBody):
    """`/v1/responses`."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = True
    previous_response_id: str | None = None
    background: bool | None = False
    store: bool | None = True
    include: list[str] | None = None
    reasoning: Reasoning | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] = "auto"
    text: dict[str, Any] | None = None
    tool_choice: str | dict[str, Any] = "auto"
    tools: list[dict[str, Any]] = []
    truncation: Literal["auto", "disabled"] | None = "disabled"
    user: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _check(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("background") and not data.get("store", True):
            raise invalid("background can only be used when `store` is true", "background")
        if data.get("prompt") is not None:
            raise invalid("prompt template is not supported", "prompt")
        return data if data.get("tools") else {**data, "tool_choice": _choice_without_tools(data)}


class AnthropicTool(_Body):
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    defer_loading: bool | None = None


class AnthropicMessage(_Body):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class _AnthropicBody(_Body):
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


class TokenizeBody(_Body):
    """`/tokenize`, of a prompt or of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    return_token_strs: bool | None = False
    tools: list[Tool] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_generation_prompt(cls, data: Any) -> Any:
        _check_generation_prompt(data)
        return data

    @model_validator(mode="after")
    def _has_input(self) -> Self:
        if self.prompt is None and self.messages is None:
            raise ValueError("Field required: prompt or messages")
        return self


class DetokenizeBody(_Body):
    """`/detokenize`."""

    model: str | None = None
    tokens: list[TokenId]


def _check_cache_salt(salt: object) -> None:
    if salt is None:
        return
    if not isinstance(salt, str) or not salt:
        raise invalid(
            "Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt"
        )
    if len(salt) > _MAX_CACHE_SALT_CHARS or _FORBIDDEN_IN_CACHE_SALT & set(salt):
        raise invalid(
            "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', "
            "'\\\\', or NUL.",
            "cache_salt",
        )


def _checked_count(data: Mapping[str, Any], name: str) -> float | None:
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise invalid(f"`{name}` must be an integer.", name, value)
    if value < 0 and value != -1:
        raise invalid(f"`{name}` must be a positive value or -1.", name, value)
    return value


def _check_generation_prompt(data: Any) -> None:
    if not isinstance(data, dict):
        return
    if data.get("continue_final_message") and data.get("add_generation_prompt"):
        raise RequestRefused(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )


def _choice_without_tools(data: Mapping[str, Any]) -> Any:
    choice = data.get("tool_choice", "auto")
    if choice == "required":
        raise invalid(
            "Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice"
        )
    if isinstance(choice, dict) and choice.get("type") in ("function", "custom"):
        raise invalid("Tool choice 'function' not found in 'tools' parameter.", "tool_choice")
    return "none" if choice in ("auto", "none") else choice
