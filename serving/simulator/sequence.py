"""What the KV cache knows of one sequence: its tokens, their hashes and its blocks."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

_HASH_BYTES = 16


class CachedSequence:
    """The tokens of one sequence and the blocks that hold their keys and values."""

    __slots__ = (
        "_root",
        "block_hashes",
        "block_ids",
        "cache_salt",
        "lora_name",
        "num_computed_tokens",
        "num_full_blocks",
        "num_prompt_tokens",
        "num_skipped_blocks",
        "quiet_tokens",
        "token_ids",
    )

    def __init__(
        self,
        prompt_token_ids: Sequence[int],
        *,
        lora_name: str | None = None,
        cache_salt: str | None = None,
    ) -> None:
        """A sequence without blocks.

        Args:
            prompt_token_ids: [num_prompt_tokens], at least one.
            lora_name: sequences of different adapters share no blocks.
            cache_salt: nor do those with different salts. An empty one is none.
        """
        # Not a list: the garbage collector would walk every token of every request again and again.
        self.token_ids = array("i", prompt_token_ids)
        """Prompt, then output."""
        self.num_prompt_tokens = len(self.token_ids)
        self.num_computed_tokens = 0
        """Tokens whose keys and values are in the cache."""
        self.lora_name = lora_name
        self.cache_salt = cache_salt or None
        self.block_hashes: list[bytes] = []
        """Of the first full blocks, as far as anyone has asked."""
        self.block_ids: list[int] = []
        self.num_full_blocks = 0
        """Blocks already offered to the prefix cache, or hit in it."""
        self.num_skipped_blocks = 0
        """Leading null blocks."""
        self.quiet_tokens = 0
        """Up to this length the sequence grows without a change in any block."""
        # One root per adapter and salt is as good as vLLM's extra keys in each hash: they chain.
        self._root = repr((lora_name, self.cache_salt)).encode() if self.extra_keys(0) else b""

    def extra_keys(self, block_index: int) -> tuple[str, ...] | None:
        """What besides tokens tells this block from others, as KV events name it."""
        salt = self.cache_salt if block_index == 0 else None
        return tuple(key for key in (self.lora_name, salt) if key) or None

    def extend_hashes(self, num_blocks: int, *, block_size: int) -> None:
        """`block_hashes` covers at least the first `num_blocks` blocks, all of them full.

        Each hash stands for its block and all before it. It is the same in every process, and it is
        not vLLM's.
        """
        hashes = self.block_hashes
        if len(hashes) >= num_blocks:
            return
        parent = hashes[-1] if hashes else self._root
        for start in range(len(hashes) * block_size, num_blocks * block_size, block_size):
            block = parent + self.token_ids[start : start + block_size].tobytes()
            parent = blake2b(block, digest_size=_HASH_BYTES).digest()
            hashes.append(parent)
