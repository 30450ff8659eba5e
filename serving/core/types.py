"""Identifiers and frozen snapshots that cross package borders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType
from urllib.parse import urlsplit

ModelId = NewType("ModelId", str)
"""A name clients put in the `model` field."""

ReplicaId = NewType("ReplicaId", str)
"""Unique id of one engine replica over the life of the cluster."""

ApiKeyId = NewType("ApiKeyId", str)
"""Public part of an API key; safe to log."""

TenantId = NewType("TenantId", str)
"""Whom a request is accounted to; today the name of the API key."""

NOBODY = TenantId("")
"""Of requests before they are authenticated, and of the platform's own."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller of one request; an operator may see how it is routed."""

    key_id: ApiKeyId
    tenant: TenantId
    is_operator: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaEndpoint:
    """Where one engine replica listens.

    `url` is the base address of its internal listener, without a trailing slash, `metrics_url` that
    of its metrics. `pid` is the process that dies when the replica dies, `version` names what it
    was built from.
    """

    id: ReplicaId
    url: str
    metrics_url: str
    node_id: str
    pid: int
    version: str

    @property
    def host(self) -> str:
        """The address of its machine.

        >>> ReplicaEndpoint(ReplicaId("a"), "http://10.0.0.7:4001", "", "n", 1, "v").host
        '10.0.0.7'
        """
        return urlsplit(self.url).hostname or ""


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What an engine is, fixed from its start.

    `sliding_window` is in tokens, `None` for full attention. `kv_blocks_total` counts blocks of
    `block_size` tokens; for hybrid models all KV-cache groups share them. `max_num_batched_tokens`
    bound a step, and so a chunk of a prompt.
    """

    max_model_len: int
    sliding_window: int | None
    block_size: int
    kv_blocks_total: int
    tasks: tuple[str, ...]
    max_num_batched_tokens: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Figures of one engine step: requests running and waiting, KV blocks in use by them.

    `waiting_tokens` is prompt left to compute, `prefill_tokens_per_s` how fast prompts have been
    computed lately, 0 before the first. The last three count since the engine's start: tokens of
    prompts that were computed rather than found in the cache, tokens generated, and preemptions.
    """

    running: int
    waiting: int
    kv_blocks_used: int
    waiting_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    prompt_tokens_computed: int = 0
    output_tokens: int = 0
    preemptions: int = 0
