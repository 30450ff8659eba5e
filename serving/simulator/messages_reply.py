"""Answers of `/v1/messages`, Anthropic's dialect.

Source: vllm/entrypoints/anthropic/serving.py and protocol.py, vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.json import encode

from serving.simulator.generation import Delta, TokenStream
from serving.simulator.reply import Body, Envelope, gather

_DELTA_BEFORE = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":'
)
_DELTA_AFTER = b'},"index":0}\n\n'


class MessagesReply:
    """One answer: a single block of text."""

    def __init__(self, envelope: Envelope, stream: TokenStream) -> None:
        self._envelope = envelope
        self._stream = stream
        self._num_tokens = 0
        self._has_begun = False
        self._has_text = False
        self._last: Delta | None = None

    def opening(self) -> bytes:
        return b""

    def chunks(self, deltas: Sequence[Delta]) -> bytes:
        parts = []
        if not self._has_begun:
            self._has_begun = True
            parts.append(self._start())
        for delta in deltas:
            self._num_tokens += 1
            if delta.text:
                if not self._has_text:
                    self._has_text = True
                    parts.append(_BLOCK_START)
                parts += (_DELTA_BEFORE, encode(delta.text), _DELTA_AFTER)
        self._last = deltas[-1]
        return b"".join(parts)

    def closing(self) -> bytes:
        reason, sequence = ("end_turn", None) if self._last is None else _stop_reason(self._last)
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": self._usage(self._num_tokens),
        }
        end = _event(delta) + _event({"type": "message_stop"})
        return _BLOCK_STOP + end if self._has_text else end

    def whole(self, deltas: Sequence[Delta]) -> Body:
        (choice,) = gather(self._stream, deltas)
        last = Delta(0, "", 0, choice.finish_reason, choice.stop_reason)
        reason, sequence = _stop_reason(last)
        body: dict[str, Any] = {
            "id": self._envelope.id,
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": choice.text}],
            "model": self._envelope.model,
            "stop_reason": reason,
            "usage": self._usage(len(choice.token_ids)),
        }
        return body if sequence is None else {**body, "stop_sequence": sequence}

    def _start(self) -> bytes:
        num_prompt = sum(self._stream.num_prompt_tokens)
        message: dict[str, Any] = {
            "id": self._envelope.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._envelope.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": num_prompt, "output_tokens": 0},
        }
        return _event({"type": "message_start", "message": message})

    def _usage(self, num_tokens: int) -> dict[str, int]:
        """What was neither read from the prefix cache nor written to it counts as input."""
        (cached, created), *_ = self._stream.cache_uses
        return {
            "input_tokens": max(sum(self._stream.num_prompt_tokens) - cached - created, 0),
            "output_tokens": num_tokens,
            "cache_creation_input_tokens": created,
            "cache_read_input_tokens": cached,
        }


def _stop_reason(last: Delta) -> tuple[str, str | None]:
    if last.finish_reason == "length":
        return "max_tokens", None
    if isinstance(last.stop_reason, str):
        return "stop_sequence", last.stop_reason
    return "end_turn", None


def _event(content: Mapping[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (content["type"].encode(), encode(content))


_BLOCK_START = _event(
    {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0}
)
_BLOCK_STOP = _event({"type": "content_block_stop", "index": 0})
