"""One sequence to generate, from its arrival to its end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum

from serving.simulator.sequence import CachedSequence


class RequestStatus(Enum):
    """Where a request stands. Only the first three can still run."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    """Back at the front of the queue; what it computed is lost, its output is not."""
    STOPPED = "stopped"
    """By a token of its `stop_token_ids`."""
    LENGTH_CAPPED = "length_capped"
    """By `max_tokens` or the model's longest sequence."""
    ABORTED = "aborted"


_FINISHED = frozenset({RequestStatus.STOPPED, RequestStatus.LENGTH_CAPPED, RequestStatus.ABORTED})


class Request(CachedSequence):
    """One sequence to generate; a prompt with `n` choices is `n` requests."""

    __slots__ = (
        "max_tokens",
        "num_cached_tokens",
        "num_created_tokens",
        "num_preemptions",
        "request_id",
        "status",
        "stop_token_ids",
        "total_tokens_limit",
    )

    def __init__(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        *,
        max_tokens: int,
        stop_token_ids: Collection[int] = (),
        lora_name: str | None = None,
        cache_salt: str | None = None,
    ) -> None:
        """A request not yet added to a scheduler.

        Args:
            request_id: unique among unfinished requests.
            prompt_token_ids: [num_prompt_tokens], at least one.
            max_tokens: output tokens, at least 1.
            stop_token_ids: tokens that end the output; the last token of it is one of them.
            lora_name: as in `CachedSequence`.
            cache_salt: as in `CachedSequence`.
        """
        super().__init__(prompt_token_ids, lora_name=lora_name, cache_salt=cache_salt)
        self.request_id = request_id
        self.max_tokens = max_tokens
        self.stop_token_ids = frozenset(stop_token_ids)
        self.status = RequestStatus.WAITING
        self.num_cached_tokens = 0
        """Prompt tokens found in the prefix cache at the first admission, as usage reports them."""
        self.num_created_tokens = 0
        """Further ones that are there when the first token comes."""
        self.num_preemptions = 0
        self.total_tokens_limit = self.num_prompt_tokens + max_tokens
        """Prompt and output tokens, at most."""

    @property
    def is_finished(self) -> bool:
        """Whether the request will never run again."""
        return self.status in _FINISHED
