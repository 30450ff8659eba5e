"""The endpoint, the gateways behind it, and what one request may cost."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from serving.settings.section import PoolName, Section


class EndpointSettings(Section):
    """Where clients connect (HAProxy's frontend)."""

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` opens the endpoint to the network: put TLS in front."""
    port: int = Field(8000, ge=1, le=65535)
    """TCP port of the endpoint."""


class LimitSettings(Section):
    """What one request may cost before an engine sees it."""

    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    """Largest accepted request body."""
    max_held_bytes: int = Field(1024**3, ge=2048)
    """Request bodies that one gateway holds at once, those of running requests included: they may
    have to go to another replica. The process takes up to twice as much memory, for copies made
    while bodies are read and for what its allocator keeps. A tenant may hold as much as is then
    free, alone half of all; what is more gets 503 with `Retry-After`."""
    max_header_bytes: int = Field(16 * 1024, ge=1024, le=32 * 1024)
    """Largest accepted request head, names and values together."""
    max_json_depth: int = Field(64, ge=4, le=256)
    """Deepest accepted nesting of arrays and objects. Must stay far below Python's recursion
    limit, which engines hit as a crash rather than an error."""
    upload_timeout_s: float = Field(20.0, gt=0)
    """Time a client has to send its body, plus one second for each `min_upload_bytes_per_s`."""
    min_upload_bytes_per_s: int = Field(64 * 1024, ge=1)
    """Slowest accepted upload once `upload_timeout_s` has passed."""
    header_timeout_s: int = Field(10, ge=1, le=300)
    """Time a client has to send its request head, enforced by HAProxy."""
    stalled_read_timeout_s: float = Field(60.0, gt=0)
    """A client that accepts no bytes for this long is disconnected and its generation aborted."""
    max_values: int = Field(8192, ge=64)
    """Values in the lists and objects of a body, token ids apart: 800 turns of an agent with tool
    calls. An engine checks values on its event loop, which stands still 0.3 ms for each message
    made to hurt it."""
    max_choices: int = Field(64, ge=1)
    """Answers one request may ask for: `n` times its prompts. Each is a sequence of its own but all
    count as one request, so this is a quarter of what an engine decodes together by default."""
    max_inputs: int = Field(2048, ge=1)
    """Texts that one request may have embedded, scored or ranked. OpenAI accepts as many."""
    max_schema_bytes: int = Field(64 * 1024, ge=1024)
    """Longest JSON schema, grammar, regular expression or list of choices, and description of one
    tool."""
    max_schema_repeat: int = Field(10_000, ge=1)
    """Repetitions in such a schema, summed over minItems, maxItems and the {n,m} of patterns. Some
    compilers write each one out: 10,000 cost 2 MB and 50 ms, a billion all memory there is."""
    max_journal_bytes: int = Field(1024 * 1024, ge=0)
    """Kept of each stream, so that another replica can go on with it: 15 bytes a token. A longer
    stream ends with an error if its replica is lost; 0 lets each do so."""
    max_tokenize_bytes: int = Field(1024 * 1024, ge=1024)
    """Largest body of `/tokenize` and `/detokenize`, 250k tokens: engines tokenize without looking
    at the context length first, 1.6 s of CPU per MiB beside the requests they serve."""

    @model_validator(mode="after")
    def _largest_body_fits(self) -> Self:
        if self.max_held_bytes < 2 * self.max_body_bytes:
            raise ValueError(
                f"max_held_bytes ({self.max_held_bytes}) must be at least twice max_body_bytes "
                f"({self.max_body_bytes}), or the largest body is refused even to a tenant alone"
            )
        return self


class GatewaySettings(Section):
    """The ingress replicas: authenticate, choose a replica, relay bytes."""

    replicas: int = Field(1, ge=1, le=256)
    """Gateway processes behind HAProxy."""
    pool: PoolName | None = None
    """Nodes they run on: those that offer Ray resource `pool:NAME`. `None` takes any node."""
    max_per_node: int | None = Field(None, ge=1)
    """Most gateways on one node; those that find no place wait for a node. `None` leaves it to Ray,
    which spreads them roughly; 1 with as many `replicas` as nodes puts one on each. With a limit
    there is no room for new gateways beside the old: a change replaces one in five at a time."""
    max_concurrent_requests: int = Field(6144, ge=1)
    """Requests one gateway replica holds at once, those that wait included; a few more wait, first
    come first served, and others get 503 from Serve's backpressure."""
    engine_connect_timeout_s: float = Field(5.0, gt=0)
    """Time to open a connection to an engine replica before another one is tried."""
    engine_silence_timeout_s: float = Field(600.0, gt=0)
    """Longest accepted silence of an engine, before the first byte and between bytes."""
    max_queued_requests: int = Field(2048, ge=0)
    """Requests that one gateway lets wait per model while every replica is at its limit; more get
    429 with `Retry-After`, those of tenants with the most of them first."""
    queue_timeout_s: float = Field(120.0, ge=0)
    """How long such a request waits for room before it gets 429 too. Tenants share what room there
    is, and requests that have waited for half of `slo.ttft_s` let newer ones go first. Set to that
    half, what would be late is refused instead, crowds included; as shipped, it waits."""
    no_replica_wait_s: float = Field(10.0, ge=0)
    """How long a request waits for a model that has no running replica before it gets 503."""
    max_index_entries: int = Field(2_000_000, ge=1000)
    """Cached KV blocks of engines that one gateway remembers per model, each counted once for every
    replica that holds it; about 250 bytes each."""
    key_refresh_s: float = Field(1.0, gt=0, le=5.0)
    """How often the key store is looked at; bounds how long a revoked key still works."""
    limits: LimitSettings = LimitSettings()

    @model_validator(mode="after")
    def _queue_can_be_full(self) -> Self:
        if self.max_queued_requests >= self.max_concurrent_requests:
            raise ValueError(
                f"max_queued_requests ({self.max_queued_requests}) must be below "
                f"max_concurrent_requests ({self.max_concurrent_requests}), or requests wait where "
                "tenants do not share"
            )
        return self
