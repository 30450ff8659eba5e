"""What a gateway counts, for Prometheus. Labels are bounded: served names, statuses and codes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from serving.core.bounded_labels import MAX_TENANTS, BoundedLabels
from serving.core.types import ModelId, TenantId
from serving.tenancy.classes import TenantClasses

_NO_MODEL = ""
"""Label of requests that were refused before their model was known."""
_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600
)  # fmt: skip
_SHORT_SECONDS = (
    0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """One finished request. Times in seconds.

    `ttft_s` is from the first byte of the request to the first of the answer's body, `None` if
    there was none. Of that, `reading_s` went to understanding the request and reading its prompt,
    `picking_s` to choosing a replica, and `queued_s` to waiting for room on one.
    `predicted_hit_tokens` of the `prompt_tokens` were expected in the replica's cache; a request
    that went to no replica has none of either.
    """

    model: str | None
    status: int
    code: str | None
    duration_s: float
    ttft_s: float | None
    queued_s: float
    num_retries: int
    num_resumes: int
    reading_s: float
    picking_s: float
    bytes_sent: int


class GatewayMetrics:
    """The gateway's own counts of requests.

    Args:
        registry: where they are shown.
        models: all that it serves.
        classes: of tenants.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        models: Collection[ModelId],
        classes: TenantClasses,
    ) -> None:
        self._classes = classes
        self._tenants = BoundedLabels(MAX_TENANTS)
        self._requests = Counter(
            "galerne_gateway_requests",
            "Finished requests by HTTP status and error code; the code is empty on success.",
            ["model", "status", "code"],
            registry=registry,
        )
        self._arrived = Counter(
            "galerne_gateway_arrived_requests",
            "Requests that were understood and want a replica, counted when they come.",
            ["model"],
            registry=registry,
        )
        self._sent = Counter(
            "galerne_gateway_sent_requests",
            "Requests sent to replicas; once each, however many replicas are tried.",
            ["model"],
            registry=registry,
        )
        self._wanted = Counter(
            "galerne_gateway_wanted_requests",
            "Requests sent to replicas or refused for want of room; not those that their client "
            "says it repeats, nor those whose client gave up first.",
            ["model"],
            registry=registry,
        )
        self._of_tenants = Counter(
            "galerne_gateway_tenant_requests",
            "The same by tenant and its class; tenants beyond the first 200 are one, `other`.",
            ["model", "tenant", "tenant_class"],
            registry=registry,
        )
        self._duration = Histogram(
            "galerne_gateway_request_duration_seconds",
            "From the request's head to the end of its answer.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._ttft = Histogram(
            "galerne_gateway_time_to_first_byte_seconds",
            "From the request's head to the first byte of the answer's body; successes only. "
            "For a stream that is the time to its first token (TTFT).",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue_wait = Histogram(
            "galerne_gateway_queue_wait_seconds",
            "Time a request waited for room on a replica; 0 if it found some at once.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._retries = Counter(
            "galerne_gateway_retries",
            "Further replicas tried after one that was full, draining or gone.",
            ["model"],
            registry=registry,
        )
        self._resumes = Counter(
            "galerne_gateway_resumes",
            "Streams handed to another replica after theirs was lost in the middle of the answer.",
            ["model"],
            registry=registry,
        )
        self._reading = Histogram(
            "galerne_gateway_reading_seconds",
            "Time to understand a request and to find out which replicas have its prompt cached.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._picking = Histogram(
            "galerne_gateway_picking_seconds",
            "Time to choose a replica; 1 ms is a lot.",
            ["model"],
            buckets=_SHORT_SECONDS,
            registry=registry,
        )
        self._prompt_tokens = Counter(
            "galerne_gateway_prompt_tokens",
            "Prompt tokens of the requests sent to replicas, counted when they are sent; estimated "
            "where prompts are not read.",
            ["model"],
            registry=registry,
        )
        self._predicted_hits = Counter(
            "galerne_gateway_predicted_hit_tokens",
            "Those that were expected in the replica's prefix cache. What engines found there is "
            "`vllm:prefix_cache_hits_total`.",
            ["model"],
            registry=registry,
        )
        self._unread = Counter(
            "galerne_gateway_unread_prompts",
            "Requests routed without their prompt, which could not be read, or not in time.",
            ["model"],
            registry=registry,
        )
        self._bytes = Counter(
            "galerne_gateway_sent_bytes",
            "Bytes of answer bodies sent to clients.",
            ["model"],
            registry=registry,
        )
        self._lost_lines = Counter(
            "galerne_gateway_lost_access_log_lines",
            "Lines of the access log that could not be written.",
            registry=registry,
        )
        # Else the first of each would not be seen to rise: there would be nothing before it.
        for model in models:
            for counter in (
                self._arrived, self._sent, self._wanted, self._prompt_tokens, self._predicted_hits
            ):  # fmt: skip
                counter.labels(model)
            for tenant, tenant_class in classes.by_tenant.items():
                self._of_tenants.labels(model, self._tenants.of(tenant), tenant_class)

    def arrived(self, model: ModelId, tenant: TenantId) -> None:
        """Count a request that wants a replica."""
        self._arrived.labels(model).inc()
        tenant_class = self._classes.of(tenant)
        self._of_tenants.labels(model, self._tenants.of(tenant), tenant_class).inc()

    def sent(self, model: ModelId, prompt_tokens: int, hit_tokens: int) -> None:
        """Count a prompt that goes to a replica, and what of it is expected to be cached there."""
        self._sent.labels(model).inc()
        self._prompt_tokens.labels(model).inc(prompt_tokens)
        self._predicted_hits.labels(model).inc(hit_tokens)

    def wanted(self, model: ModelId) -> None:
        """Count a request that is sent or refused for want of room, and not for the second time."""
        self._wanted.labels(model).inc()

    def record(self, outcome: RequestOutcome) -> None:
        """Count one finished request."""
        model = outcome.model or _NO_MODEL
        self._requests.labels(model, str(outcome.status), outcome.code or "").inc()
        self._duration.labels(model).observe(outcome.duration_s)
        self._bytes.labels(model).inc(outcome.bytes_sent)
        if outcome.model is None:
            return
        self._queue_wait.labels(model).observe(outcome.queued_s)
        self._retries.labels(model).inc(outcome.num_retries)
        self._resumes.labels(model).inc(outcome.num_resumes)
        self._reading.labels(model).observe(outcome.reading_s)
        self._picking.labels(model).observe(outcome.picking_s)
        if outcome.ttft_s is not None and outcome.status < 300:
            self._ttft.labels(model).observe(outcome.ttft_s)

    def prompt_unread(self, model: ModelId) -> None:
        """Count a request whose prompt was not read."""
        self._unread.labels(model).inc()

    def lines_lost(self, num_lines: int) -> None:
        """Count lines of the access log that could not be written."""
        self._lost_lines.inc(num_lines)
