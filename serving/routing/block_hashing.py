"""Names for KV blocks by content, the same in every process of a cluster.

vLLM names a block by a hash of its tokens and its parent's name, 3 µs each in Python. Gateways name
thousands of blocks for one long prompt while they relay streams, so these names are made all at
once, in numpy: a polynomial over the tokens, modulo 2^64, with secret coefficients.

Two different prompts share a name with a probability of about 2^-50, and nobody without the secret
can make them do so. Even then a request only goes to a replica that cannot use its cache for it.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int64]
"""[num_tokens]"""
BlockNames = npt.NDArray[np.uint64]
"""[num_blocks]"""

_BITS = 64
_FIRST_POWERS = 4096


class BlockHasher:
    """Names blocks of `block_size` tokens.

    Args:
        secret: the same in every process that exchanges names.

    >>> hasher = BlockHasher(b"secret", block_size=4)
    >>> prompt = np.arange(10)
    >>> names = hasher.names(prompt, parent=hasher.root())
    >>> len(names)  # two tokens are left over
    2
    >>> later = hasher.names(prompt[4:], parent=int(names[0]))
    >>> bool(later[0] == names[1])
    True
    >>> hasher.root(cache_salt="a") == hasher.root(cache_salt="b")
    False
    """

    def __init__(self, secret: bytes, *, block_size: int) -> None:
        self.block_size = block_size
        self._secret = secret
        # One coefficient per place in a block. Odd, so that no bit of a token is lost.
        self._coefficients = np.array(
            [self._draw(f"token {place}") | 1 for place in range(block_size)], dtype=np.uint64
        )
        self._base = self._draw("block") | 1
        self._powers, self._inverses = _powers_of(self._base, _FIRST_POWERS)

    def root(self, *, lora_name: str | None = None, cache_salt: str | None = None) -> int:
        """The parent of a prompt's first block; it keeps adapters and salts apart."""
        return self._draw(repr((lora_name or None, cache_salt or None)))

    def names(self, token_ids: TokenIds, *, parent: int) -> BlockNames:
        """The names of the full blocks of `token_ids`, [num_tokens // block_size].

        Args:
            token_ids: what follows the block called `parent`.

        With b(j) the polynomial of block j, name(i) = name(i-1) * base + b(i); solved for all i at
        once: name(i) = base^i * (parent + the sum of b(j) * base^-j over j <= i), i from 1.
        """
        num_blocks = len(token_ids) // self.block_size
        if num_blocks == 0:
            return np.empty(0, dtype=np.uint64)
        if num_blocks > len(self._powers):
            self._powers, self._inverses = _powers_of(self._base, 2 * num_blocks)
        blocks = np.asarray(token_ids[: num_blocks * self.block_size]).astype(np.uint64)
        # Token 0 must count too, hence + 1.
        sums = (blocks.reshape(num_blocks, self.block_size) + np.uint64(1)) @ self._coefficients
        shifted = np.cumsum(sums * self._inverses[:num_blocks], dtype=np.uint64)
        return (shifted + np.uint64(parent)) * self._powers[:num_blocks]

    def _draw(self, purpose: str) -> int:
        digest = blake2b(purpose.encode(), key=self._secret[:64], digest_size=_BITS // 8)
        return int.from_bytes(digest.digest(), "little")


@lru_cache(maxsize=8)
def _powers_of(base: int, number: int) -> tuple[BlockNames, BlockNames]:
    """base^1 to base^number modulo 2^64, and their inverses; `base` is odd."""
    inverse = pow(base, -1, 1 << _BITS)
    powers = np.cumprod(np.full(number, base, dtype=np.uint64), dtype=np.uint64)
    inverses = np.cumprod(np.full(number, inverse, dtype=np.uint64), dtype=np.uint64)
    return powers, inverses
