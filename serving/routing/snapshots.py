"""What a routing decision is made from: the request and the replicas, frozen at that moment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from serving.core.types import ReplicaId

UNKNOWN_PREFILL_TOKENS_PER_S = 10_000.0
"""For replicas that have not told; of the order of a 7B model on one data-centre GPU."""


@dataclass(frozen=True, slots=True)
class RequestProfile:
    """What is known of a request before it runs.

    `prompt_tokens`, at least 1, is exact where the prompt could be tokenized, else estimated.
    `hit_tokens` are the leading tokens each replica has cached; replicas without any are left out.
    `part_names` names the prompt's parts where replicas are to tell what was routed to them.
    `expected_output_tokens` is at most what the request allows. `session` keeps requests together
    that follow each other.
    """

    prompt_tokens: int
    expected_output_tokens: int
    hit_tokens: Mapping[ReplicaId, int] = field(default_factory=dict)
    part_names: Sequence[int] = ()
    lora_name: str | None = None
    session: str | None = None

    def uncached_tokens(self, replica: ReplicaId) -> int:
        """Prompt tokens the replica would have to compute, at least 1."""
        return max(self.prompt_tokens - self.hit_tokens.get(replica, 0), 1)


class ReplicaSnapshot(msgspec.Struct, frozen=True):
    """What a gateway knows of one replica at the moment of choosing.

    It is the replica's latest report plus what this gateway has sent since, or, without a report,
    what this gateway alone knows. `in_flight` counts requests, `waiting_tokens` is prompt left to
    compute, `prefill_tokens_per_s` its measured rate, `free_kv_tokens` of
    `total_kv_tokens` the room in its KV cache, cached blocks that nobody uses included; a total of
    0 means that it has not told.

    `report_age_s` is how old the report is, infinite without one; `known_for_s` how long this
    gateway has known the replica, `silent_s` how long it has neither said nor answered anything.
    """

    id: ReplicaId
    in_flight: int = 0
    waiting_tokens: int = 0
    prefill_tokens_per_s: float = UNKNOWN_PREFILL_TOKENS_PER_S
    free_kv_tokens: int = 0
    total_kv_tokens: int = 0
    adapters: frozenset[str] = frozenset()
    node_id: str = ""
    is_draining: bool = False
    report_age_s: float = math.inf
    known_for_s: float = math.inf
    silent_s: float = 0.0

    @property
    def wait_s(self) -> float:
        """Until the replica has computed the prompts it already has."""
        return self.waiting_tokens / self.prefill_tokens_per_s
