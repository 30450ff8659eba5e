"""Answers of `/v1/chat/completions` and `/v1/completions`.

Streamed chunks leave out what vLLM leaves unset; whole answers name every field.

Source: serving.py and protocol.py in vllm/entrypoints/openai/{chat_completion,completion},
vLLM 0.32, with `--enable-prompt-tokens-details`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec.json import encode

from serving.rendering.openai_bodies import StreamOptions
from serving.simulator.generation import CacheUse, Delta, TokenStream
from serving.simulator.reply import Body, Choice, Envelope, gather

_DONE = b"data: [DONE]\n\n"
_MARK = "\x00"
"""Stands for a text while a chunk's bytes around it are prepared."""


@dataclass(frozen=True, slots=True)
class ChunkOptions:
    """What a client wants to see beside the text."""

    include_usage: bool = False
    continuous_usage: bool = False
    token_ids: bool = False
    echo: tuple[str, ...] = ()
    """For each prompt, a text that its answers begin with."""

    @classmethod
    def of(
        cls, options: StreamOptions | None, *, token_ids: bool, echo: Sequence[str] = ()
    ) -> ChunkOptions:
        include = bool(options and options.include_usage)
        continuous = include and bool(options and options.continuous_usage_stats)
        return cls(include, continuous, token_ids, tuple(echo))


class _Shapes(Protocol):
    """Where chat and completions differ."""

    kind: str
    chunk_kind: str

    def chunk_choice(self, index: int, text: str, token_ids: list[int] | None) -> dict[str, Any]:
        """A choice in a streamed chunk."""

    def choice(self, index: int, choice: Choice, token_ids: list[int] | None) -> dict[str, Any]:
        """A choice in a whole answer."""


class ChatShapes:
    """`/v1/chat/completions`."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    @staticmethod
    def chunk_choice(index: int, text: str, token_ids: list[int] | None) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {"content": text},
            "logprobs": None,
            "finish_reason": None,
            "token_ids": token_ids,
        }

    @staticmethod
    def choice(index: int, choice: Choice, token_ids: list[int] | None) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": choice.text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": token_ids,
            "routed_experts": None,
        }


class CompletionShapes:
    """`/v1/completions`."""

    kind = chunk_kind = "text_completion"

    @staticmethod
    def chunk_choice(index: int, text: str, token_ids: list[int] | None) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": None,
            "finish_reason": None,
            "stop_reason": None,
            "prompt_token_ids": None,
            "token_ids": token_ids,
        }

    @staticmethod
    def choice(index: int, choice: Choice, token_ids: list[int] | None) -> dict[str, Any]:
        return {
            "index": index,
            "text": choice.text,
            "logprobs": None,
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
            "token_ids": token_ids,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }


class OpenAIReply:
    """One answer in either form.

    The bytes around each token's text are prepared once, for every choice.
    """

    def __init__(
        self, shapes: _Shapes, envelope: Envelope, stream: TokenStream, options: ChunkOptions
    ) -> None:
        self._shapes = shapes
        self._envelope = envelope
        self._stream = stream
        self._options = options
        self._num_tokens = [0] * len(stream.request_ids)
        self._is_chat = isinstance(shapes, ChatShapes)
        self._is_plain = not (options.continuous_usage or options.token_ids or options.echo)
        self._frames = [self._frame(index) for index in range(len(stream.request_ids))]
        self._opened_by: int | None = None

    def opening(self) -> bytes:
        return b""

    def chunks(self, deltas: Sequence[Delta]) -> bytes:
        parts = []
        if self._opened_by is None:
            self._opened_by = deltas[0].choice
            if self._is_chat:
                parts.append(self._roles())
        for delta in deltas:
            self._num_tokens[delta.choice] += 1
            if delta.finish_reason is None and self._is_plain:
                before, after = self._frames[delta.choice]
                parts += (before, encode(delta.text), after)
            else:
                parts.append(self._rich_chunk(delta))
        return b"".join(parts)

    def closing(self) -> bytes:
        if not self._options.include_usage:
            return _DONE
        usage = _usage(self._stream, sum(self._num_tokens))
        # vLLM tells what its first output found.
        use = self._stream.cache_uses[self._opened_by or 0]
        details: dict[str, Any] = {"cached_tokens": use.num_cached_tokens}
        if self._is_chat:
            details["created_cache_tokens"] = use.num_created_tokens
        usage["prompt_tokens_details"] = details
        chunk = self._chunk([])
        chunk |= {"usage": usage, "system_fingerprint": self._envelope.fingerprint}
        return _event(chunk) + _DONE

    def whole(self, deltas: Sequence[Delta]) -> Body:
        envelope, options = self._envelope, self._options
        choices = gather(self._stream, deltas)
        num_tokens = sum(len(choice.token_ids) for choice in choices)
        for index, echo in enumerate(self._echoes()):
            choices[index].texts.insert(0, echo)
        return {
            "id": envelope.id,
            "object": self._shapes.kind,
            "created": envelope.created,
            "model": envelope.model,
            "choices": [
                self._shapes.choice(index, choice, choice.token_ids if options.token_ids else None)
                for index, choice in enumerate(choices)
            ],
            "service_tier": None,
            "system_fingerprint": envelope.fingerprint,
            "usage": self._whole_usage(num_tokens, _last_use(self._stream, deltas)),
            **self._unset_fields(),
        }

    def _whole_usage(self, num_tokens: int, use: CacheUse) -> dict[str, Any]:
        usage = _usage(self._stream, num_tokens)
        usage["prompt_tokens_details"] = {
            "cached_tokens": use.num_cached_tokens,
            "created_cache_tokens": use.num_created_tokens if self._is_chat else None,
            "multimodal_tokens": None,
        }
        usage["completion_tokens_details"] = None
        return usage

    def _unset_fields(self) -> dict[str, None]:
        names = ["kv_transfer_params", "ec_transfer_params", "metrics"]
        if self._is_chat:
            names = ["prompt_logprobs", "prompt_token_ids", "prompt_text", *names]
        return dict.fromkeys(names)

    def _echoes(self) -> list[str]:
        return [echo for echo in self._options.echo for _ in range(self._stream.n)]

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        envelope = self._envelope
        return {
            "id": envelope.id,
            "object": self._shapes.chunk_kind,
            "created": envelope.created,
            "model": envelope.model,
            "choices": choices,
        }

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        frame = _event(self._chunk([self._shapes.chunk_choice(index, _MARK, None)]))
        before, after = frame.split(encode(_MARK))
        return before, after

    def _roles(self) -> bytes:
        """The first chunk of each choice, which has no text yet."""
        chunks = []
        for index in range(len(self._num_tokens)):
            choice = self._shapes.chunk_choice(index, "", None)
            choice["delta"] = {"role": "assistant", "content": ""}
            del choice["token_ids"]
            chunk = self._chunk([choice])
            if self._options.continuous_usage:
                chunk["usage"] = self._running_usage(index)
            chunks.append(_event(chunk | {"prompt_token_ids": None, "prompt_text": None}))
        return b"".join(chunks)

    def _rich_chunk(self, delta: Delta) -> bytes:
        """A chunk that ends a choice or shows more than its text."""
        options, index = self._options, delta.choice
        text = delta.text
        if options.echo and self._num_tokens[index] == 1:
            text = options.echo[index // self._stream.n] + text
        token_ids = [delta.token_id] if options.token_ids else None
        choice = self._shapes.chunk_choice(index, text, token_ids)
        if delta.finish_reason is not None:
            choice |= {"finish_reason": delta.finish_reason, "stop_reason": delta.stop_reason}
        chunk = self._chunk([choice])
        if options.continuous_usage:
            chunk["usage"] = self._running_usage(index)
        if delta.finish_reason is not None and not options.include_usage:
            chunk["system_fingerprint"] = self._envelope.fingerprint
        return _event(chunk)

    def _running_usage(self, index: int) -> dict[str, Any]:
        num_prompt = self._stream.num_prompt_tokens[index // self._stream.n]
        num_tokens = self._num_tokens[index]
        usage = {
            "prompt_tokens": num_prompt,
            "total_tokens": num_prompt + num_tokens,
            "completion_tokens": num_tokens,
        }
        return {**usage, "completion_tokens_details": None} if self._is_chat else usage


def _usage(stream: TokenStream, num_tokens: int) -> dict[str, Any]:
    num_prompt = sum(stream.num_prompt_tokens)
    return {
        "prompt_tokens": num_prompt,
        "total_tokens": num_prompt + num_tokens,
        "completion_tokens": num_tokens,
    }


def _last_use(stream: TokenStream, deltas: Sequence[Delta]) -> CacheUse:
    """What the answer to the last prompt found that ended after its siblings.

    Source: `ParentRequest.get_outputs` in vllm/v1/engine/parallel_sampling.py, whose last caller
    makes the output of all, and `last_final_res` in
    vllm/entrypoints/openai/completion/serving.py, vLLM 0.32.
    """
    first = (len(stream.num_prompt_tokens) - 1) * stream.n
    ended = (delta.choice for delta in reversed(deltas) if delta.finish_reason is not None)
    return stream.cache_uses[next(choice for choice in ended if choice >= first)]


def _event(content: Body) -> bytes:
    return b"data: " + encode(content) + b"\n\n"
