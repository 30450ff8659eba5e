"""What request bodies have in common, and those that ask for tokens only.

Bodies are read as vLLM reads them, as far as a simulation has to look. Fields that only shape the
words of an answer are not listed and pass unread, as all unknown fields do. Each dialect's bodies
have a file of their own: `openai_bodies.py`, `responses_body.py`, `messages_body.py`.

Source: vllm/entrypoints/serve/tokenize/protocol.py and those named there, vLLM 0.32.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import TypedDict

from serving.rendering.refusal import RequestRefused, invalid

MAX_STOP_STRINGS = 4
_MAX_CACHE_SALT_CHARS = 128
_FORBIDDEN_IN_CACHE_SALT = frozenset("@/\\\x00")

TokenId = Annotated[int, Field(ge=0, le=2**63 - 1)]
Stop = str | Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None


class ChatMessage(TypedDict, total=False):
    """One message; what else it holds is for the chat template."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # pydantic's way

    role: Required[str]
    content: str | list[str | dict[str, Any]] | None
    tool_calls: list[dict[str, Any]] | None


class Body(BaseModel):
    """A JSON object; unknown fields are nobody's business."""

    model_config = ConfigDict(extra="ignore")


class ToolFunction(Body):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool | None = None


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"] = "function"
    function: ToolFunction

    def for_template(self) -> dict[str, Any]:
        """As chat templates get it: unset fields too, but not those that few models know."""
        function = self.function.model_dump()
        rare = {name for name in ("strict", "defer_loading") if function[name] is None}
        kept = {name: value for name, value in function.items() if name not in rare}
        return {"type": self.type, "function": kept}


class GenerationBody(Body):
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


class TokenizeBody(Body):
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
        check_generation_prompt(data)
        return data

    @model_validator(mode="after")
    def _has_input(self) -> Self:
        if self.prompt is None and self.messages is None:
            raise ValueError("Field required: prompt or messages")
        return self


class DetokenizeBody(Body):
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


def check_generation_prompt(data: Any) -> None:
    """Refuse a chat that is to be continued and answered at once.

    Raises:
        RequestRefused: it asks for both.
    """
    if not isinstance(data, dict):
        return
    if data.get("continue_final_message") and data.get("add_generation_prompt"):
        raise RequestRefused(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
