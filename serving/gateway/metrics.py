"""What a gateway counts, for Prometheus. Labels are bounded: served names, statuses and codes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.core.types import ModelId

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
    prompt_tokens: int
    predicted_hit_tokens: int
    bytes_sent: int


class GatewayMetrics:
    """The gateway's own metrics.

    Args:
        registry: where they are shown.
        num_in_flight: requests held on replicas now, by model.
        num_queued: requests waiting for room now, by model.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        models: Collection[ModelId],
        *,
        num_in_flight: Callable[[ModelId], int],
        num_queued: Callable[[ModelId], int],
    ) -> None:
        self._requests = Counter(
            "galerne_gateway_requests",
            "Finished requests by HTTP status and error code; the code is empty on success.",
            ["model", "status", "code"],
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
            "Prompt tokens of the requests sent to replicas; estimated where prompts are not read.",
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
        in_flight = Gauge(
            "galerne_gateway_in_flight_requests",
            "Requests this gateway holds on replicas.",
            ["model"],
            registry=registry,
        )
        queued = Gauge(
            "galerne_gateway_queued_requests",
            "Requests waiting for room on a replica.",
            ["model"],
            registry=registry,
        )
        for model in models:
            in_flight.labels(model).set_function(_asking(num_in_flight, model))
            queued.labels(model).set_function(_asking(num_queued, model))

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
        self._prompt_tokens.labels(model).inc(outcome.prompt_tokens)
        self._predicted_hits.labels(model).inc(outcome.predicted_hit_tokens)
        if outcome.ttft_s is not None and outcome.status < 300:
            self._ttft.labels(model).observe(outcome.ttft_s)

    def prompt_unread(self, model: ModelId) -> None:
        """Count a request whose prompt was not read."""
        self._unread.labels(model).inc()

    def lines_lost(self, num_lines: int) -> None:
        """Count lines of the access log that could not be written."""
        self._lost_lines.inc(num_lines)


def _asking(ask: Callable[[ModelId], int], model: ModelId) -> Callable[[], float]:
    return lambda: float(ask(model))
