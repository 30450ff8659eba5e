"""Answers of `/v1/responses`.

Source: vllm/entrypoints/openai/responses/serving.py, streaming_events.py and protocol.py,
vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from msgspec.json import encode

from serving.rendering.responses_body import ResponsesBody
from serving.simulator.generation import Delta, TokenStream
from serving.simulator.reply import Body, Envelope, gather

_UNSET = (
    "prompt", "input_messages", "output_messages", "kv_transfer_params", "ec_transfer_params",
    "top_logprobs",
)  # fmt: skip


class ResponsesReply:
    """One answer: a single message with one text."""

    def __init__(
        self, envelope: Envelope, stream: TokenStream, body: ResponsesBody, *, max_tokens: int
    ) -> None:
        self._envelope = envelope
        self._stream = stream
        self._body = body
        self._max_tokens = max_tokens
        self._item_id = f"msg_{uuid4().hex}"
        self._number = 0
        self._num_tokens = 0
        self._texts: list[str] = []
        self._finish_reason: str | None = None
        self._place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        self._before = b'event: response.output_text.delta\ndata: {"content_index":0,"delta":'
        self._between = b',"item_id":%s,"logprobs":[],"output_index":0,"sequence_number":' % encode(
            self._item_id
        )
        self._after = b',"type":"response.output_text.delta"}\n\n'

    def opening(self) -> bytes:
        response = self._response("in_progress", [], None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def chunks(self, deltas: Sequence[Delta]) -> bytes:
        parts = []
        for delta in deltas:
            self._num_tokens += 1
            if not delta.text:
                continue
            if not self._texts:
                parts.append(self._item_opening())
            self._texts.append(delta.text)
            number = b"%d" % self._number
            self._number += 1
            parts += (self._before, encode(delta.text), self._between, number, self._after)
        self._finish_reason = deltas[-1].finish_reason
        return b"".join(parts)

    def closing(self) -> bytes:
        text = "".join(self._texts)
        item = _message(self._item_id, text)
        events = b""
        if self._texts:
            events = (
                self._event("response.output_text.done", **self._place, text=text, logprobs=[])
                + self._event("response.content_part.done", **self._place, part=_part(text))
                + self._event("response.output_item.done", output_index=0, item=item)
            )
        output = [item] if self._texts else []
        response = self._response(_status(self._finish_reason), output, self._num_tokens)
        return events + self._event("response.completed", response=response)

    def whole(self, deltas: Sequence[Delta]) -> Body:
        (choice,) = gather(self._stream, deltas)
        output = [_message(self._item_id, choice.text)] if choice.text else []
        return self._response(_status(choice.finish_reason), output, len(choice.token_ids))

    def _item_opening(self) -> bytes:
        item = {**_message(self._item_id, ""), "content": [], "status": "in_progress"}
        part = {**_part(""), "logprobs": []}
        return self._event("response.output_item.added", output_index=0, item=item) + self._event(
            "response.content_part.added", **self._place, part=part
        )

    def _response(
        self, status: str, output: list[dict[str, Any]], num_tokens: int | None
    ) -> dict[str, Any]:
        body, envelope = self._body, self._envelope
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": envelope.id,
            "created_at": envelope.created,
            "incomplete_details": incomplete,
            "instructions": body.instructions,
            "metadata": body.metadata,
            "model": envelope.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "tool_choice": body.tool_choice,
            "tools": body.tools,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "background": False,
            "max_output_tokens": self._max_tokens,
            "max_tool_calls": body.max_tool_calls,
            "previous_response_id": None,
            "reasoning": body.reasoning and {"effort": body.reasoning.effort},
            "service_tier": body.service_tier,
            "status": status,
            "text": body.text,
            "truncation": body.truncation,
            "usage": None if num_tokens is None else self._usage(num_tokens),
            "user": body.user,
            "presence_penalty": body.presence_penalty or 0.0,
            "frequency_penalty": body.frequency_penalty or 0.0,
            **dict.fromkeys(_UNSET),
        }

    def _usage(self, num_tokens: int) -> dict[str, Any]:
        num_prompt = sum(self._stream.num_prompt_tokens)
        (cached, created), *_ = self._stream.cache_uses
        return {
            "input_tokens": num_prompt,
            "input_tokens_details": {
                "cached_tokens": cached,
                "cache_write_tokens": created,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": num_tokens,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": num_prompt + num_tokens,
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        content: Mapping[str, Any] = {**fields, "sequence_number": self._number, "type": kind}
        self._number += 1
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), encode(content))


def _status(finish_reason: str | None) -> str:
    return "incomplete" if finish_reason == "length" else "completed"


def _message(item_id: str, text: str) -> dict[str, Any]:
    return {
        "id": item_id,
        "content": [_part(text)],
        "role": "assistant",
        "status": "completed",
        "type": "message",
        "phase": None,
    }


def _part(text: str) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
