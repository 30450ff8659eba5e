"""The chat messages in each dialect's request, as chat templates know them.

Source: vllm/entrypoints/anthropic/serving.py, vllm/entrypoints/openai/responses/utils.py and
vllm/renderers/chat_utils.py, vLLM 0.32.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from serving.rendering.bodies import TokenizeBody, Tool, ToolFunction
from serving.rendering.messages_body import (
    AnthropicMessage,
    AnthropicTool,
    CountTokensBody,
    MessagesBody,
)
from serving.rendering.openai_bodies import ChatBody
from serving.rendering.refusal import RequestRefused
from serving.rendering.responses_body import ResponsesBody
from serving.rendering.tokenizer import Chat, Message

_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
_BILLING_HEADER = "x-anthropic-billing-header"


def chat_of(body: ChatBody) -> Chat:
    """The conversation of `/v1/chat/completions`.

    Raises:
        RequestRefused: it holds what no text model reads, or asks for a template of its own.
    """
    _refuse_template(body.chat_template, body.chat_template_kwargs)
    kwargs = dict(body.chat_template_kwargs or {})
    kwargs |= {"documents": body.documents} if body.documents is not None else {}
    kwargs |= _thinking(body.reasoning_effort, kwargs)
    return Chat(
        messages=_checked(body.messages),
        tools=_for_template(body.tools),
        add_generation_prompt=body.add_generation_prompt and not body.continue_final_message,
        continue_final_message=body.continue_final_message,
        add_special_tokens=body.add_special_tokens,
        template_kwargs=kwargs,
    )


def chat_of_tokenize(body: TokenizeBody) -> Chat:
    """The conversation of `/tokenize`.

    Raises:
        RequestRefused: as `chat_of`.
    """
    _refuse_template(body.chat_template, body.chat_template_kwargs)
    return Chat(
        messages=_checked(body.messages or []),
        tools=_for_template(body.tools),
        add_generation_prompt=body.add_generation_prompt and not body.continue_final_message,
        continue_final_message=body.continue_final_message,
        add_special_tokens=bool(body.add_special_tokens),
        template_kwargs=body.chat_template_kwargs or {},
    )


def chat_of_responses(body: ResponsesBody) -> Chat:
    """The conversation of `/v1/responses`.

    Raises:
        RequestRefused: as `chat_of`.
    """
    _refuse_template(None, body.chat_template_kwargs)
    messages: list[Message] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        for item in body.input:
            _add_response_item(messages, item)
    kwargs = dict(body.chat_template_kwargs or {})
    kwargs |= _thinking(body.reasoning.effort if body.reasoning else None, kwargs)
    return Chat(
        messages=_checked(messages),
        tools=_for_template(_response_tools(body.tools)),
        # vLLM leaves this endpoint at its tokenizer's default, unlike the chat endpoint.
        add_special_tokens=True,
        template_kwargs=kwargs,
    )


def chat_of_messages(body: MessagesBody | CountTokensBody) -> Chat:
    """The conversation of `/v1/messages`.

    Raises:
        RequestRefused: as `chat_of`.
    """
    _refuse_template(None, body.chat_template_kwargs)
    messages: list[Message] = []
    if body.system and (system := _system_text(body.system)):
        messages.append({"role": "system", "content": system})
    for message in body.messages:
        messages += _anthropic_message(message)
    tools = None if body.tools is None else [_anthropic_tool(tool) for tool in body.tools]
    return Chat(
        messages=_checked(messages),
        tools=_for_template(tools),
        template_kwargs=body.chat_template_kwargs or {},
    )


def _for_template(tools: Sequence[Tool] | None) -> list[dict[str, Any]] | None:
    return None if tools is None else [tool.for_template() for tool in tools]


def _refuse_template(template: str | None, kwargs: Mapping[str, Any] | None) -> None:
    if template is not None or (kwargs and kwargs.get("chat_template") is not None):
        raise RequestRefused(
            "Chat template is passed with request, but --trust-request-chat-template is not set. "
            "Refused request with untrusted chat template."
        )


def _thinking(effort: str | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if effort is None:
        return {}
    thinking = {} if "enable_thinking" in kwargs else {"enable_thinking": effort != "none"}
    return {"reasoning_effort": effort, **thinking}


def _checked(messages: Sequence[Any]) -> Sequence[Message]:
    """Messages that hold nothing but text.

    An empty list is let through, as vLLM does: what the template makes of it is the prompt.
    """
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            kind = "text" if isinstance(part, str) else part.get("type", "text")
            if kind not in _TEXT_PARTS:
                raise RequestRefused(
                    f"Unsupported chat content part type: {kind!r}. Supported types: "
                    f"{', '.join(sorted(_TEXT_PARTS))}. (parameter=type, value={kind})",
                    param="type",
                )
    return messages


def _response_tools(tools: Sequence[Mapping[str, Any]]) -> list[Tool] | None:
    functions = [tool for tool in tools if tool.get("type") == "function"]
    if not tools:
        return None
    return [Tool(function=ToolFunction.model_validate(function)) for function in functions]


def _add_response_item(messages: list[Message], item: Mapping[str, Any]) -> None:
    """One more message, or one more call of the assistant's last message. Reasoning is skipped."""
    kind = item.get("type", "message")
    if kind == "reasoning":
        return
    if kind == "function_call":
        _add_call(messages, item)
    elif kind == "function_call_output":
        result = {"role": "tool", "content": item.get("output")}
        messages.append({**result, "tool_call_id": item.get("call_id")})
    elif isinstance(item.get("role"), str):
        messages.append(_response_message(item))
    else:
        raise RequestRefused(
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.input', "
            "'msg': 'Field required'}",
            param="body.input",
            error_type="Bad Request",
        )


def _add_call(messages: list[Message], item: Mapping[str, Any]) -> None:
    function = {"name": item.get("name"), "arguments": item.get("arguments", "")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    last = messages[-1] if messages else {}
    if last.get("role") == "assistant":
        messages[-1] = {**last, "tool_calls": [*(last.get("tool_calls") or []), call]}
    else:
        messages.append({"role": "assistant", "tool_calls": [call]})


def _response_message(item: Mapping[str, Any]) -> Message:
    """Of an earlier answer only the first text is read, as in vLLM."""
    content = item.get("content")
    if item.get("role") == "assistant" and item.get("type") == "message" and content:
        content = content if isinstance(content, str) else content[0].get("text")
    return {"role": item["role"], "content": content}


def _system_text(system: str | Iterable[Mapping[str, Any]]) -> str:
    blocks = [system] if isinstance(system, str) else [b.get("text") or "" for b in system]
    return "".join(text for text in blocks if not text.startswith(_BILLING_HEADER))


def _anthropic_message(message: AnthropicMessage) -> list[Message]:
    """The message, after the tool results it brings, which are messages of their own."""
    if message.role == "system":
        text = _system_text(message.content)
        return [{"role": "system", "content": text}] if text else []
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results = [_tool_result(b) for b in message.content if b.get("type") == "tool_result"]
    parts = [_part(block) for block in message.content if block.get("type") in ("text", "image")]
    calls = [_tool_call(block) for block in message.content if block.get("type") == "tool_use"]
    converted: dict[str, Any] = {"role": message.role}
    if parts:
        is_text = len(parts) == 1 and "text" in parts[0]
        converted["content"] = parts[0]["text"] if is_text else parts
    if calls:
        converted["tool_calls"] = calls
    return [*results, converted] if parts or calls or message.role != "user" else list(results)


def _part(block: Mapping[str, Any]) -> dict[str, Any]:
    if block.get("type") == "image":
        return {"type": "image_url"}
    return {"type": "text", "text": block.get("text") or ""}


def _tool_call(block: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": block.get("name", ""), "arguments": json.dumps(block.get("input") or {})}
    return {"id": block.get("id"), "type": "function", "function": function}


def _tool_result(block: Mapping[str, Any]) -> Message:
    content = block.get("content")
    if isinstance(content, list):
        content = "\n".join(part.get("text", "") for part in content if part.get("type") == "text")
    return {
        "role": "tool",
        "tool_call_id": block.get("tool_use_id", ""),
        "content": content or "",
    }


def _anthropic_tool(tool: AnthropicTool) -> Tool:
    function = ToolFunction(
        name=tool.name,
        description=tool.description,
        parameters={**tool.input_schema, "type": tool.input_schema.get("type", "object")},
        strict=tool.strict,
        defer_loading=tool.defer_loading,
    )
    return Tool(function=function)
