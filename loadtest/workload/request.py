"""A request as it is planned, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serving.lab import traces

Dialect = Literal["chat", "completions", "responses", "messages"]
"""OpenAI's chat completions, completions and responses; Anthropic's messages."""

BLOCK_TOKENS = traces.BLOCK_TOKENS
"""Tokens of a prompt block that has a name, as in Mooncake's traces."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt of a session, and the answer that is asked for.

    `blocks` names the prompt's blocks of `BLOCK_TOKENS` tokens, of which the last may be shorter:
    prompts with equal leading names have equal leading tokens. For a later turn both count only
    what is new, after the turns before and their answers. `think_s` is the pause between the end of
    the answer before and this turn, 0 for the first.
    """

    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Session:
    """Requests of one conversation, in order; a request by itself is a session of one turn.

    `index` is its place in the workload: the same session has the same index in every run, so that
    two runs can be compared request by request. `at_s` is when its first turn is due, counted from
    the beginning of the run. `traffic` names the part of the workload that it belongs to. The
    client leaves `cancel_after_s` after sending a turn, if that is given and the answer has not
    ended.
    """

    index: int
    at_s: float
    traffic: str
    turns: tuple[Turn, ...]
    cancel_after_s: float | None = None
