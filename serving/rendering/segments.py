"""Tokenizing long texts without doing the same part twice.

Conversations grow by a turn and documents are asked about again, so most of a long prompt has been
tokenized before. Its text is cut into segments whose tokens do not depend on what is around them;
those of known segments are looked up.

Cuts are where special tokens begin, which tokenizers cut at themselves, and, in what is still long,
between two words. Whether a tokenizer allows that is tried out when it is loaded.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from threading import Lock

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as RustTokenizer

TokenIds = npt.NDArray[np.int32]
"""[num_tokens]"""

_LONG_CHARS = 2048
_SEARCH_CHARS = 512
"""Where to cut depends on the text before alone, so that texts that begin alike are cut alike."""
_OVER_THE_CUT = re.compile(r"[A-Za-z0-9,;][ \u2581\u0120]")
"""A token with such a piece would span two words; tokenizers write a space in one of these ways."""
_BETWEEN_WORDS = re.compile(r"(?<=[A-Za-z0-9,;])(?= [A-Za-z])")
_OVERHEAD_BYTES = 200
"""Of a cached segment: its key, its array's head and its place in the table."""
_PROBES = (
    "The north-west wind, galerne, blows 3 days; it's cold. " * 3,
    "Ça souffle: 1789 été, naïve (x == y) and\n\n  def f(a, b):\n\treturn a+b # done, then\n go on",
    "日本語 と English を混ぜる text, with 🌊 emoji and a_b_c 12345 mixed; l'eau d'ici is deep",
)


class SegmentedTokenizer:
    """A tokenizer that remembers the segments it has seen.

    Args:
        tokenizer: whose results these are, exactly.
        max_bytes: of memory for segments; those unused for longest are forgotten.

    Several threads may use it at once; the tokenizing itself lets other threads run.
    """

    def __init__(self, tokenizer: RustTokenizer, *, max_bytes: int) -> None:
        self._tokenizer = tokenizer
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._known: OrderedDict[bytes, TokenIds] = OrderedDict()
        self._lock = Lock()
        self._before, self._after = self._added_to_plain_text()
        self._specials, self._opener = self._special_tokens()
        self._keeps_space = self._probe()
        self.num_tokenized_chars = 0
        """How much has gone through the tokenizer; the rest was known."""

    def encode(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        """The token ids of a text."""
        parts = [self._ids_of(*segment) for segment in self._cut(text)]
        if add_special_tokens:
            parts = [self._before, *parts, self._after]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)

    def _cut(self, text: str) -> Iterator[tuple[str, bool]]:
        """The segments, and whether each goes on where another one ends between two words."""
        starts = [match.start() for match in self._specials.finditer(text)] if text else []
        bounds = [0, *(start for start in starts if start), len(text)]
        for start, end in pairwise(bounds):
            if self._keeps_space is None or end - start <= _LONG_CHARS:
                yield text[start:end], False
            else:
                yield from _cut_between_words(text, start, end)

    def _ids_of(self, segment: str, goes_on: bool) -> TokenIds:
        content = segment.encode(errors="surrogatepass")
        key = blake2b(content, digest_size=16, person=b"goes on" if goes_on else b"").digest()
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return known
        ids = self._tokenize(segment, goes_on=goes_on)
        with self._lock:
            self.num_tokenized_chars += len(segment)
            if key not in self._known:
                self._known[key] = ids
                self._num_bytes += ids.nbytes + _OVERHEAD_BYTES
            while self._num_bytes > self._max_bytes and self._known:
                _, oldest = self._known.popitem(last=False)
                self._num_bytes -= oldest.nbytes + _OVERHEAD_BYTES
        return ids

    def _tokenize(self, segment: str, *, goes_on: bool) -> TokenIds:
        """A segment that goes on must not look like the beginning of a text."""
        if not goes_on:
            return self._encode_whole(segment)
        text = self._opener + (segment if self._keeps_space else segment[1:])
        return self._encode_whole(text)[1:]

    def _encode_whole(self, text: str) -> TokenIds:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(ids, dtype=np.int32)

    def _added_to_plain_text(self) -> tuple[TokenIds, TokenIds]:
        """The tokens that come before and after a text, such as the beginning-of-sequence."""
        with_them = self._tokenizer.encode("a", add_special_tokens=True).ids
        without = self._tokenizer.encode("a", add_special_tokens=False).ids
        start = next(i for i in range(len(with_them)) if with_them[i : i + len(without)] == without)
        before, after = with_them[:start], with_them[start + len(without) :]
        return np.array(before, dtype=np.int32), np.array(after, dtype=np.int32)

    def _special_tokens(self) -> tuple[re.Pattern[str], str]:
        """What matches special tokens that tokenizers cut at whatever is around them, and one."""
        plain = [
            token.content
            for token in self._tokenizer.get_added_tokens_decoder().values()
            if token.special and not (token.lstrip or token.rstrip or token.single_word)
        ]
        longest_first = sorted(plain, key=len, reverse=True)
        never = r"(?!)"
        return re.compile("|".join(map(re.escape, longest_first)) or never), min(plain, default="")

    def _probe(self) -> bool | None:
        """Whether a segment that begins between words is tokenized with its leading space or
        without, which some tokenizers add themselves; `None` if neither gives the same tokens."""
        if not self._opener or any(map(_OVER_THE_CUT.search, self._tokenizer.get_vocab())):
            return None
        for keeps_space in (True, False):
            self._keeps_space = keeps_space
            if all(map(self._is_right, _PROBES)):
                return keeps_space
        return None

    def _is_right(self, text: str) -> bool:
        bounds = [0, *(match.start() for match in _BETWEEN_WORDS.finditer(text)), len(text)]
        parts = [
            self._tokenize(text[start:end], goes_on=start > 0) for start, end in pairwise(bounds)
        ]
        return np.array_equal(np.concatenate(parts), self._encode_whole(text))


def _cut_between_words(text: str, start: int, end: int) -> Iterator[tuple[str, bool]]:
    """Segments of about `_LONG_CHARS`; longer where no two words meet."""
    begin = start
    for target in range(start + _LONG_CHARS, end, _LONG_CHARS):
        cut = _BETWEEN_WORDS.search(text, target, min(target + _SEARCH_CHARS, end))
        if cut is not None:
            yield text[begin : cut.start()], begin > start
            begin = cut.start()
    yield text[begin:end], begin > start
