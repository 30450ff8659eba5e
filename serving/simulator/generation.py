"""What one request asks for, the answers made up for it, and the stream they leave by."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import NamedTuple

from serving.rendering.vocabulary import Token, Vocabulary


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a request."""

    token_ids: Sequence[int]
    """[num_prompt_tokens]"""
    is_chat: bool
    """The answer stands alone, rather than going on with a text."""
    lora_name: str | None = None
    cache_salt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How long an answer may be and what ends it; what would shape its words is not simulated."""

    max_tokens: int
    """At least 1."""
    n: int = 1
    """Answers for each prompt, at least 1."""
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    """Texts that end an answer, none of them empty."""
    stop_token_ids: frozenset[int] = frozenset()
    include_stop_str_in_output: bool = False


class Delta(NamedTuple):
    """What one token adds to one answer."""

    choice: int
    """Index of the answer: those of the first prompt, then those of the next."""
    text: str
    """Empty for a stop token, and while a stop string might be forming."""
    token_id: int
    finish_reason: str | None
    stop_reason: int | str | None


class CacheUse(NamedTuple):
    """What the prefix cache did for the prompt of one answer, as usage reports it."""

    num_cached_tokens: int = 0
    """Prompt tokens that were in the cache."""
    num_created_tokens: int = 0
    """Further ones that are there now."""


class AnswerSource:
    """Made-up answers: the same for the same seed, prompt and index.

    Lengths are geometric: most are short, some are several times the mean.
    """

    def __init__(self, vocabulary: Vocabulary, *, mean_tokens: int, seed: int) -> None:
        """Answers from a vocabulary.

        Args:
            mean_tokens: mean length, at least 1; the stop token counts, but there is always a word.
        """
        self.vocabulary = vocabulary
        self._seed = seed
        mean_words = max(mean_tokens - 1, 1)
        self._log_going_on = math.log1p(-1 / mean_words) if mean_words > 1 else -math.inf

    def rngs(self, prompt: Prompt, n: int) -> list[Random]:
        """The source of randomness of each of `n` answers to a prompt."""
        digest = blake2b(array("q", prompt.token_ids).tobytes(), digest_size=16).hexdigest()
        names = (f"{self._seed}/{digest}/{index}" for index in range(n))
        return [Random(name) for name in names]  # noqa: S311 (no secret)

    def draw_length(self, rng: Random) -> int:
        """Words until an answer ends by itself, at least 1."""
        return 1 + int(math.log(1.0 - rng.random()) / self._log_going_on)


class Answer:
    """One answer as it grows, token by token."""

    __slots__ = (
        "_first",
        "_is_stopping",
        "_length",
        "_num_held_back",
        "_num_sent",
        "_random",
        "_sampling",
        "_stop",
        "_text",
        "_token",
        "_words",
        "finish_reason",
        "num_tokens",
        "stop_reason",
    )

    def __init__(
        self, source: AnswerSource, rng: Random, sampling: Sampling, *, is_chat: bool
    ) -> None:
        """An answer without tokens."""
        vocabulary = source.vocabulary
        length = max(source.draw_length(rng), sampling.min_tokens)
        self._length: float = math.inf if sampling.ignore_eos else length
        self._random = rng.random
        self._words = vocabulary.words
        self._first = vocabulary.openers if is_chat else vocabulary.words
        self._stop: Token = (vocabulary.stop_id, "")
        self._sampling = sampling
        self._token = self._stop
        self._is_stopping = bool(sampling.stop)
        self._text = ""
        self._num_sent = 0
        held_back = (
            0
            if sampling.include_stop_str_in_output
            else max(map(len, sampling.stop), default=1) - 1
        )
        self._num_held_back = held_back
        self.num_tokens = 0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None

    def repeat(self, num_tokens: int) -> list[int]:
        """The first tokens, which another engine has generated and sent."""
        token_ids = []
        for _ in range(num_tokens):
            token_ids.append(self.sample())
            self.take(is_stopped=False, is_capped=False)
        return token_ids

    def sample(self) -> int:
        """The next token id."""
        num_tokens = self.num_tokens
        if num_tokens >= self._length:
            token = self._stop
        else:
            words = self._words if num_tokens else self._first
            token = words[int(self._random() * len(words))]
        self.num_tokens = num_tokens + 1
        self._token = token
        return token[0]

    def take(self, *, is_stopped: bool, is_capped: bool) -> str:
        """The text that the sampled token adds for the client; the answer may be finished by it.

        Args:
            is_stopped: the token was a stop token.
            is_capped: it is the last one the answer may have.
        """
        token_id, text = self._token
        if is_stopped:
            self.finish_reason = "stop"
            if token_id in self._sampling.stop_token_ids:
                self.stop_reason = token_id
                text = ""
        elif is_capped:
            self.finish_reason = "length"
        return self._after_stop_strings(text) if self._is_stopping else text

    def _after_stop_strings(self, text: str) -> str:
        """What may be sent of the text so far and was not.

        Source: `BaseIncrementalDetokenizer` in vllm/v1/engine/detokenizer.py, vLLM 0.32.
        """
        searched = len(self._text)
        self._text += text
        if text and self.num_tokens > self._sampling.min_tokens:
            self._find_stop_string(searched)
        held_back = 0 if self.finish_reason else self._num_held_back
        end = max(len(self._text) - held_back, self._num_sent)
        start, self._num_sent = self._num_sent, end
        return self._text[start:end]

    def _find_stop_string(self, searched: int) -> None:
        found = []
        for stop in self._sampling.stop:
            start = self._text.find(stop, max(searched - len(stop) + 1, 0))
            if start >= 0:
                found.append((start + len(stop), start, stop))
        if not found:
            return
        end, start, stop = min(found, key=lambda match: match[0])
        self._text = self._text[: end if self._sampling.include_stop_str_in_output else start]
        self.finish_reason = "stop"
        self.stop_reason = stop


class TokenStream:
    """The deltas of one HTTP request, in order, for one reader."""

    def __init__(self, request_ids: list[str], num_prompt_tokens: list[int], n: int) -> None:
        """A stream without deltas.

        Args:
            request_ids: [num_prompts * n], the engine's names of the answers.
            num_prompt_tokens: [num_prompts]
            n: answers for each prompt.
        """
        self.request_ids = request_ids
        self.num_prompt_tokens = num_prompt_tokens
        self.n = n
        self.cache_uses = [CacheUse()] * len(request_ids)
        """Of each answer, known from its first token on. Answers to one prompt differ: those that
        begin later find what the first one stored."""
        self._num_open = len(request_ids)
        self._deltas: list[Delta] = []
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wakes_at_end = False

    @property
    def is_finished(self) -> bool:
        """Whether every answer is complete and read."""
        return not self._num_open and not self._deltas

    def push(self, delta: Delta) -> None:
        """One more token."""
        self._deltas.append(delta)
        if delta.finish_reason is not None:
            self._num_open -= 1
        if self._waiter is not None and not (self._wakes_at_end and self._num_open):
            self._wake()

    def fail(self, error: Exception) -> None:
        """There will be no more tokens; the reader gets `error`."""
        self._error = error
        self._wake()

    async def read(self) -> list[Delta]:
        """The deltas since the last call, at least one.

        Raises:
            Exception: what `fail` was told.
        """
        if not self._deltas and self._error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
        deltas, self._deltas = self._deltas, []
        return deltas

    async def read_all(self) -> list[Delta]:
        """Every delta, when the last answer is complete.

        Raises:
            Exception: what `fail` was told.
        """
        self._wakes_at_end = True
        deltas: list[Delta] = []
        while not self.is_finished:
            deltas += await self.read()
        return deltas

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
