"""An answer on its way to the client, whatever the dialect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec.json import encode

from serving.rendering.refusal import RequestRefused
from serving.simulator.generation import Delta, TokenStream

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every chunk of an answer repeats."""

    id: str
    model: str
    created: int
    """Unix seconds."""
    fingerprint: str


class Reply(Protocol):
    """One request's answer in one dialect."""

    def opening(self) -> bytes:
        """Events before the first token is known."""

    def chunks(self, deltas: Sequence[Delta]) -> bytes:
        """Events for new tokens."""

    def closing(self) -> bytes:
        """Events after the last token."""

    def whole(self, deltas: Sequence[Delta]) -> Body:
        """The answer to a request that asked for no stream."""


@dataclass(slots=True)
class Choice:
    """One finished answer."""

    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


def gather(stream: TokenStream, deltas: Iterable[Delta]) -> list[Choice]:
    """The answers, in the order of their indices."""
    choices = [Choice() for _ in stream.request_ids]
    for delta in deltas:
        choice = choices[delta.choice]
        choice.texts.append(delta.text)
        choice.token_ids.append(delta.token_id)
        if delta.finish_reason is not None:
            choice.finish_reason = delta.finish_reason
            choice.stop_reason = delta.stop_reason
    return choices


def openai_failure(error: RequestRefused) -> bytes:
    """An error inside a stream, as OpenAI's dialect has it."""
    return b"data: " + encode(error.body) + b"\n\ndata: [DONE]\n\n"


def messages_failure(error: RequestRefused) -> bytes:
    """An error inside a stream, as Anthropic's dialect has it."""
    body = {"type": "error", "error": {"type": "internal_error", "message": error.message}}
    return b"event: error\ndata: " + encode(body) + b"\n\n"
