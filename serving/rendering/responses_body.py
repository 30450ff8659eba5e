"""The body of `/v1/responses`.

Source: vllm/entrypoints/openai/responses/protocol.py, vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from serving.rendering.bodies import Body, GenerationBody
from serving.rendering.refusal import invalid


class Reasoning(Body):
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
    tools: list[dict[str, Any]] = []  # noqa: RUF012 (pydantic copies defaults)
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


def _choice_without_tools(data: Mapping[str, Any]) -> Any:
    choice = data.get("tool_choice", "auto")
    if choice == "required":
        raise invalid(
            "Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice"
        )
    if isinstance(choice, dict) and choice.get("type") in ("function", "custom"):
        raise invalid("Tool choice 'function' not found in 'tools' parameter.", "tool_choice")
    return "none" if choice in ("auto", "none") else choice
