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
from threading import Lock

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as RustTokenizer

TokenIds = npt.NDArray[np.int32]
"""[num_tokens]"""

_LONG_CHARS = 2048
_SEARCH_CHARS = 512
"""Where to cut depends on the text before alone, so that texts that begin alike are cut alike."""
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
        parts = [self._ids_of(segment) for segment in self._cut(text)]
        if add_special_tokens:
            parts = [self._before, *parts, self._after]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)

    def _cut(self, text: str) -> Iterator[str]:
        starts = [match.start() for match in self._specials.finditer(text)] if text else []
        bounds = [0, *(start for start in starts if start), len(text)]
        for start, end in zip(bounds, bounds[1:], strict=False):
            if self._keeps_space is None or end - start <= _LONG_CHARS:
                yield text[start:end]
            else:
                yield from _cut_between_words(text, start, end)

    def _ids_of(self, segment: str) -> TokenIds:
        key = blake2b(segment.encode(errors="surrogatepass"), digest_size=16).digest()
        with self._lock:
            if (known := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return known
        ids = self._tokenize(segment)
        with self._lock:
            self.num_tokenized_chars += len(segment)
            if key not in self._known:
                self._known[key] = ids
                self._num_bytes += ids.nbytes + _OVERHEAD_BYTES
            while self._num_bytes > self._max_bytes and self._known:
                _, oldest = self._known.popitem(last=False)
                self._num_bytes -= oldest.nbytes + _OVERHEAD_BYTES
        return ids

    def _tokenize(self, segment: str) -> TokenIds:
        """A segment that begins between words must not look like the beginning of a text."""
        if self._keeps_space is None or not segment.startswith(" "):
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
