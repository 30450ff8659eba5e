"""What a gateway finds out about a request before it chooses a replica for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.core.types import ReplicaId
from serving.gateway.prompt_reader import PromptReader, Scope
from serving.gateway.replica_states import ReplicaStates
from serving.rendering.reading import has_prompt
from serving.rendering.tokenizer import Tokenizer
from serving.routing.block_hashing import BlockHasher
from serving.routing.snapshots import RequestProfile

_BYTES_PER_TOKEN = 4
"""Of text in European languages, JSON around it included, for models of the last years."""
_EXPECTED_OUTPUT_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A request as far as routing goes. `session` is what the client says belongs together."""

    path: str
    body: bytes
    scope: Scope
    session: str | None


class Profiler:
    """Profiles of one model's requests.

    Args:
        states: of the model's replicas, with the index of what they have cached.
        tokenizer: the model's, or `None` where policies do not ask what is cached, or the model's
            files have none that can be used.
        secret: of the names of blocks.
    """

    def __init__(
        self, states: ReplicaStates, tokenizer: Tokenizer | None, *, secret: bytes
    ) -> None:
        self._states = states
        self._tokenizer = tokenizer
        self._secret = secret
        self._reader: PromptReader | None = None
        self.on_unread: Callable[[], None] = _nothing
        """Called for each prompt that was not read, or not in time."""

    async def profile(self, inquiry: Inquiry, *, is_asked: bool = False) -> RequestProfile:
        """What is known of the request now; at most a quarter of a second is spent on it.

        Args:
            is_asked: somebody wants to know; else prompts are not read while there is no choice to
                make.
        """
        prompt_tokens = max(len(inquiry.body) // _BYTES_PER_TOKEN, 1)
        hit_tokens: dict[ReplicaId, int] = {}
        part_names: list[int] = []
        reader = self._reader_now() if is_asked or self._states.num_followed > 1 else None
        if reader is not None:
            blocks = await reader.read(inquiry.path, inquiry.body, inquiry.scope)
            if blocks is not None:
                prompt_tokens = blocks.num_tokens
                hit_tokens = self._states.hit_tokens(blocks.names)
                if self._states.follows_routing:
                    part_names = blocks.names
            elif has_prompt(inquiry.path):
                self.on_unread()
        return RequestProfile(
            prompt_tokens=prompt_tokens,
            expected_output_tokens=_EXPECTED_OUTPUT_TOKENS,
            hit_tokens=hit_tokens,
            part_names=part_names,
            lora_name=inquiry.scope.lora_name,
            session=inquiry.session,
        )

    def close(self) -> None:
        """Read no more prompts."""
        if self._reader is not None:
            self._reader.close()

    def _reader_now(self) -> PromptReader | None:
        """The reader, once a replica has told how long a block is."""
        if self._tokenizer is None:
            return None
        if self._reader is None and (block_size := self._states.block_size) is not None:
            hasher = BlockHasher(self._secret, block_size=block_size)
            self._reader = PromptReader(self._tokenizer, hasher)
        return self._reader


def _nothing() -> None:
    pass
