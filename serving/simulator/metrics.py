"""vLLM's Prometheus metrics, counted in plain numbers and rendered when someone asks.

Names, types, labels and bucket bounds are vLLM's, which
`tests/integration/test_simulator_speaks_like_vllm.py` compares.

Source: vllm/v1/metrics/loggers.py, stats.py and buckets.py, vLLM 0.32.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from serving.simulator.scheduler import Scheduler

_LATENCY_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_TTFT_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_ITL_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_CHOICES = (1, 2, 5, 10, 20)
_PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
_FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")

_HISTOGRAMS: Mapping[str, tuple[str, tuple[float, ...] | None]] = {
    "request_prompt_tokens": ("Number of prefill tokens processed.", None),
    "request_generation_tokens": ("Number of generation tokens processed.", None),
    "request_max_num_generation_tokens": (
        "Histogram of maximum number of requested generation tokens.",
        None,
    ),
    "request_params_n": ("Histogram of the n request parameter.", _CHOICES),
    "request_params_max_tokens": ("Histogram of the max_tokens request parameter.", None),
    "request_prefill_kv_computed_tokens": (
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        None,
    ),
    "request_num_preemptions": (
        "Histogram of the number of times a request was preempted.",
        _PREEMPTIONS,
    ),
    "iteration_tokens_total": ("Histogram of number of tokens per engine_step.", _STEP_TOKENS),
    "time_to_first_token_seconds": ("Histogram of time to first token in seconds.", _TTFT_S),
    "inter_token_latency_seconds": ("Histogram of inter-token latency in seconds.", _ITL_S),
    "request_time_per_output_token_seconds": (
        "Histogram of time_per_output_token_seconds per request.",
        _ITL_S,
    ),
    "e2e_request_latency_seconds": ("Histogram of e2e request latency in seconds.", _LATENCY_S),
    "request_queue_time_seconds": (
        "Histogram of time spent in WAITING phase for request.",
        _LATENCY_S,
    ),
    "request_inference_time_seconds": (
        "Histogram of time spent in RUNNING phase for request.",
        _LATENCY_S,
    ),
    "request_prefill_time_seconds": (
        "Histogram of time spent in PREFILL phase for request.",
        _LATENCY_S,
    ),
    "request_decode_time_seconds": (
        "Histogram of time spent in DECODE phase for request.",
        _LATENCY_S,
    ),
}
"""Documentation and bounds by name; `None` for token counts, whose bounds follow the model."""


class Histogram:
    """Counts of observations between bounds.

    >>> histogram = Histogram((1, 10))
    >>> histogram.observe(0.5)
    >>> histogram.observe(10, count=3)
    >>> histogram.buckets(), histogram.total
    ([('1.0', 1), ('10.0', 4), ('+Inf', 4)], 30.5)
    """

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, *, count: int = 1) -> None:
        """`count` observations of one value."""
        self._counts[bisect_left(self._bounds, value)] += count
        self.total += value * count

    def buckets(self) -> list[tuple[str, float]]:
        """Observations at most as large as each bound."""
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts), strict=True))


@dataclass(slots=True)
class RequestTimes:
    """When the stages of one answer began, in seconds of the engine's clock."""

    arrived_at: float
    queued_at: float = 0.0
    scheduled_at: float | None = None
    first_token_at: float = 0.0
    last_token_at: float = 0.0


@dataclass(slots=True)
class StepCounts:
    """What one engine step adds to the counters."""

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generation_tokens: int = 0
    num_preemptions: int = 0
    gaps: dict[float, int] = field(default_factory=dict)
    """Seconds between two tokens of a request, and how many requests saw them."""


class EngineMetrics(Collector):
    """The metrics of one engine; register it once."""

    def __init__(self, scheduler: Scheduler, *, model_name: str, max_model_len: int) -> None:
        token_bounds = tuple(_one_two_five(max_model_len))
        self._scheduler = scheduler
        self._labels = {"model_name": model_name, "engine": "0"}
        self.histograms = {
            name: Histogram(token_bounds if bounds is None else bounds)
            for name, (_, bounds) in _HISTOGRAMS.items()
        }
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self.num_generation_tokens = 0
        self.num_preemptions = 0
        self.num_finished = dict.fromkeys(_FINISHED_REASONS, 0)
        self.cache_config: Mapping[str, str] = {}
        """Labels of `cache_config_info`, without the engine's number."""

    def record_step(self, step: StepCounts) -> None:
        """One engine step was committed."""
        self.num_prompt_tokens += step.num_prompt_tokens
        self.num_cached_tokens += step.num_cached_tokens
        self.num_generation_tokens += step.num_generation_tokens
        self.num_preemptions += step.num_preemptions
        self.histograms["iteration_tokens_total"].observe(
            step.num_prompt_tokens - step.num_cached_tokens + step.num_generation_tokens
        )
        inter_token = self.histograms["inter_token_latency_seconds"]
        for gap, count in step.gaps.items():
            inter_token.observe(gap, count=count)

    def record_prompt(self, *, n: int, most_tokens: int) -> None:
        """A prompt got the last of its `n` answers; the longest has `most_tokens` tokens.

        The metric's own text speaks of requested tokens, but vLLM observes generated ones.
        """
        self.histograms["request_params_n"].observe(n)
        self.histograms["request_max_num_generation_tokens"].observe(most_tokens)

    def record_answer(
        self, times: RequestTimes, tokens: Mapping[str, int], *, reason: str, now: float
    ) -> None:
        """An answer is complete.

        Args:
            tokens: by histogram name, all that it has to say of this answer's tokens.
            now: seconds of the engine's clock.
        """
        self.num_finished[reason] += 1
        scheduled_at = times.queued_at if times.scheduled_at is None else times.scheduled_at
        decode_s = times.last_token_at - times.first_token_at
        num_gaps = tokens["request_generation_tokens"] - 1
        seconds = {
            "e2e_request_latency_seconds": now - times.arrived_at,
            "request_queue_time_seconds": scheduled_at - times.queued_at,
            "request_prefill_time_seconds": times.first_token_at - scheduled_at,
            "request_decode_time_seconds": decode_s,
            "request_inference_time_seconds": times.last_token_at - scheduled_at,
            "request_time_per_output_token_seconds": decode_s / num_gaps if num_gaps > 0 else 0.0,
        }
        for name, value in (*tokens.items(), *seconds.items()):
            self.histograms[name].observe(value)

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        for name, (documentation, _) in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"vllm:{name}", documentation, labels=list(self._labels))
            histogram = self.histograms[name]
            family.add_metric(list(self._labels.values()), histogram.buckets(), histogram.total)
            yield family

    def _gauges(self) -> Iterator[Metric]:
        scheduler = self._scheduler
        waiting = {"capacity": scheduler.num_waiting, "deferred": 0}
        yield self._gauge(
            "num_requests_running",
            "Number of requests in model execution batches.",
            scheduler.num_running,
        )
        yield self._gauge(
            "num_requests_waiting",
            "Number of requests waiting to be processed.",
            scheduler.num_waiting,
        )
        yield self._labelled_gauge(
            "num_requests_waiting_by_reason",
            "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for "
            "scheduling capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV "
            "transfer, blocked status). Sum of all reasons equals vllm:num_requests_waiting.",
            [({**self._labels, "reason": reason}, count) for reason, count in waiting.items()],
        )
        yield self._gauge(
            "kv_cache_usage_perc",
            "KV-cache usage. 1 means 100 percent usage.",
            scheduler.kv_cache.usage,
        )
        yield self._labelled_gauge(
            "cache_config_info",
            "Information of the LLMEngine CacheConfig",
            [({**self.cache_config, "engine": self._labels["engine"]}, 1)],
        )

    def _counters(self) -> Iterator[Metric]:
        cache = self._scheduler.kv_cache
        cached, computed = self.num_cached_tokens, self.num_prompt_tokens - self.num_cached_tokens
        yield self._counter(
            "prefix_cache_queries",
            "Prefix cache queries, in terms of number of queried tokens.",
            cache.num_query_tokens,
        )
        yield self._counter(
            "prefix_cache_hits",
            "Prefix cache hits, in terms of number of cached tokens.",
            cache.num_hit_tokens,
        )
        yield self._counter(
            "num_preemptions",
            "Cumulative number of preemption from the engine.",
            self.num_preemptions,
        )
        yield self._counter(
            "prompt_tokens", "Number of prefill tokens processed.", self.num_prompt_tokens
        )
        yield self._counter(
            "prompt_tokens_cached", "Number of cached prompt tokens (local + external).", cached
        )
        yield self._split_counter(
            "prompt_tokens_by_source",
            "Number of prompt tokens by source.",
            "source",
            {"local_compute": computed, "local_cache_hit": cached, "external_kv_transfer": 0},
        )
        yield self._counter(
            "generation_tokens",
            "Number of generation tokens processed.",
            self.num_generation_tokens,
        )
        yield self._split_counter(
            "request_success",
            "Count of successfully processed requests.",
            "finished_reason",
            self.num_finished,
        )

    def _gauge(self, name: str, documentation: str, value: float) -> Metric:
        return self._labelled_gauge(name, documentation, [(self._labels, value)])

    @staticmethod
    def _labelled_gauge(
        name: str, documentation: str, samples: list[tuple[Mapping[str, str], float]]
    ) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", documentation, labels=list(samples[0][0]))
        for labels, value in samples:
            family.add_metric(list(labels.values()), value)
        return family

    def _counter(self, name: str, documentation: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", documentation, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _split_counter(
        self, name: str, documentation: str, label: str, values: Mapping[str, float]
    ) -> Metric:
        labels = [*self._labels, label]
        family = CounterMetricFamily(f"vllm:{name}", documentation, labels=labels)
        for key, value in values.items():
            family.add_metric([*self._labels.values(), key], value)
        return family


def _one_two_five(limit: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, … up to a limit.

    >>> list(_one_two_five(30))
    [1, 2, 5, 10, 20]
    """
    scale = 1
    while True:
        for mantissa in (1, 2, 5):
            if mantissa * scale > limit:
                return
            yield mantissa * scale
        scale *= 10
