"""Texts of prompts that have exactly so many tokens, and share what their blocks share.

    prompts = Prompts(SIMULATED)                          # simulated engines without a tokenizer
    prompts = Prompts(words_of(Path("folder/of/model")))  # a real model's
    prompts.text(turn.blocks, turn.prompt_tokens)

A text is words that the tokenizer takes for one token each, wherever they stand. A block of them
begins with its name, written in words as in digits, so that blocks of two names differ from their
first words on; the rest is a stretch of one long random text. Nothing is drawn or kept for each
block, so that a prompt of 7,000 tokens takes some 20 µs, whether its blocks were seen or not.

What is exact: the text by itself, encoded without special tokens, has so many tokens. What a server
counts beside it is its chat template's, or the one special token that many tokenizers put before a
plain prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from loadtest.workload.request import BLOCK_TOKENS
from serving.errors import ConfigError

_SPACES = " Ġ▁"
"""As vocabularies write a space: by itself, and in byte-level and SentencePiece tokenizers."""
_OVER_WORDS = re.compile(f"[a-z][{_SPACES}]")
_NAME_BITS = 64
_NAME_MASK = (1 << _NAME_BITS) - 1
_TAPE_BITS = 16
_MAX_WORDS = 4096
_MIN_WORDS = 64
_MULTIPLIER = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: spreads consecutive names over the tape. Source: Knuth, "The Art of
Computer Programming" 3, section 6.4 (Fibonacci hashing)."""


def _simulated_words() -> tuple[str, ...]:
    rng = Random(0)
    words = {
        "".join(rng.choices("abcdefghiklmnoprstuvw", k=5)): None for _ in range(2 * _MAX_WORDS)
    }
    return tuple(words)[:_MAX_WORDS]


SIMULATED = _simulated_words()
"""Words that a simulated engine without a model's tokenizer takes for one token each."""


def words_of(path: Path) -> tuple[str, ...]:
    """Words that a model's tokenizer takes for one token each, alone and after another.

    Args:
        path: a `tokenizer.json`, or the folder that holds it.

    Raises:
        ConfigError: there is none, or it has too few such words.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # The Rust side raises plain Exceptions.
        raise _unusable(path, "there is no tokenizer.json that can be read") from error
    known = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    plain = {token.lstrip(_SPACES): None for token, _ in known}
    words = _single(tokenizer, plain)
    if len(words) < _MIN_WORDS:
        raise _unusable(path, f"only {len(words)} words are one token each")
    if any(_OVER_WORDS.search(token) for token in plain):
        raise _unusable(path, "its tokens reach over the ends of words")
    return words


def _single(tokenizer: Tokenizer, tokens: Iterable[str]) -> tuple[str, ...]:
    """Those that are words, and one token both at the beginning and after another word."""
    ordinary = (word for word in tokens if word.isascii() and word.isalpha() and word.islower())
    candidates = list(islice(ordinary, 2 * _MAX_WORDS))
    first = tokenizer.encode_batch(candidates, add_special_tokens=False)
    second = tokenizer.encode_batch([f"a {word}" for word in candidates], add_special_tokens=False)
    words = (
        word
        for word, one, two in zip(candidates, first, second, strict=True)
        if len(one.ids) == 1 and len(two.ids) == 2
    )
    return tuple(islice(words, _MAX_WORDS))


def _unusable(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"prompts cannot be made with the tokenizer {path}: {reason}",
        code="tokenizer_unusable",
        param="--tokenizer",
        hint="without it prompts are simple words, and their tokens those that the server counts",
    )


@dataclass(frozen=True, slots=True)
class _Tape:
    """A long random text, every word with a space before it. Its first `i` words end at byte
    `ends[i]`. `digits`: as many of the words as the next power of two below."""

    text: bytes
    ends: Sequence[int]
    digits: Sequence[bytes]

    @classmethod
    def of(cls, words: Sequence[str], seed: int) -> _Tape:
        rng = Random(seed)
        spaced = [f" {word}".encode() for word in words]
        drawn = rng.choices(spaced, k=(1 << _TAPE_BITS) + BLOCK_TOKENS)
        ends = list(accumulate(map(len, drawn), initial=0))
        num_digits = 1 << len(words).bit_length() - 1
        return cls(b"".join(drawn), ends, rng.sample(spaced, num_digits))


class Prompts:
    """Makes texts of the same words.

    Args:
        words: of ASCII letters, one token each; at least 64.
        salt: another one makes all texts other texts, so that a run finds nothing of an earlier
            one's in the server's prefix cache.
    """

    def __init__(self, words: Sequence[str] = SIMULATED, *, salt: int = 0) -> None:
        self._tape = _Tape.of(words, salt)
        self._bits = len(self._tape.digits).bit_length() - 1
        self._num_digits = -(-_NAME_BITS // self._bits)
        # Names of one part of a workload differ in their last bits alone.
        self._last_digits = lru_cache(maxsize=4096)(self._digits)

    def text(self, blocks: Sequence[int], prompt_tokens: int) -> bytes:
        """A text of `prompt_tokens` words, ASCII letters and spaces: nothing that JSON escapes.

        Args:
            blocks: names of its blocks of `BLOCK_TOKENS` tokens, from 0 to 2^64 - 1.
            prompt_tokens: at least 1.
        """
        parts: list[bytes] = []
        left = prompt_tokens
        for name in blocks:
            parts += self._block(name, min(left, BLOCK_TOKENS))
            left -= BLOCK_TOKENS
        parts[0] = parts[0][1:]
        return b"".join(parts)

    def _block(self, name: int, num_words: int) -> tuple[bytes, ...]:
        """The first words of a block."""
        tape, bits = self._tape, self._bits
        digits, mask = tape.digits, (1 << bits) - 1
        if num_words < self._num_digits:
            return tuple(digits[name >> place * bits & mask] for place in range(num_words))
        begin = (name * _MULTIPLIER & _NAME_MASK) >> _NAME_BITS - _TAPE_BITS
        rest = tape.text[tape.ends[begin] : tape.ends[begin + num_words - self._num_digits]]
        last = self._last_digits(name >> 2 * bits)
        return digits[name & mask], digits[name >> bits & mask], last, rest

    def _digits(self, number: int) -> bytes:
        """A name's digits without the first two, as words."""
        mask = len(self._tape.digits) - 1
        places = range(self._num_digits - 2)
        return b"".join(self._tape.digits[number >> place * self._bits & mask] for place in places)
