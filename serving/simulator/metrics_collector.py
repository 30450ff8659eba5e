"""An engine's metrics under vLLM's names, rendered when someone asks.

Names, types, labels and bucket bounds are vLLM's, which
`tests/integration/test_simulator_speaks_like_vllm.py` compares.

Source: vllm/v1/metrics/loggers.py, vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from serving.simulator.metrics import EngineMetrics
from serving.simulator.scheduler import Scheduler

_HISTOGRAMS: Mapping[str, str] = {
    "request_prompt_tokens": "Number of prefill tokens processed.",
    "request_generation_tokens": "Number of generation tokens processed.",
    "request_max_num_generation_tokens": (
        "Histogram of maximum number of requested generation tokens."
    ),
    "request_params_n": "Histogram of the n request parameter.",
    "request_params_max_tokens": "Histogram of the max_tokens request parameter.",
    "request_prefill_kv_computed_tokens": (
        "Histogram of new KV tokens computed during prefill (excluding cached tokens)."
    ),
    "request_num_preemptions": "Histogram of the number of times a request was preempted.",
    "iteration_tokens_total": "Histogram of number of tokens per engine_step.",
    "time_to_first_token_seconds": "Histogram of time to first token in seconds.",
    "inter_token_latency_seconds": "Histogram of inter-token latency in seconds.",
    "request_time_per_output_token_seconds": (
        "Histogram of time_per_output_token_seconds per request."
    ),
    "e2e_request_latency_seconds": "Histogram of e2e request latency in seconds.",
    "request_queue_time_seconds": "Histogram of time spent in WAITING phase for request.",
    "request_inference_time_seconds": "Histogram of time spent in RUNNING phase for request.",
    "request_prefill_time_seconds": "Histogram of time spent in PREFILL phase for request.",
    "request_decode_time_seconds": "Histogram of time spent in DECODE phase for request.",
}
"""Documentation by name."""


class MetricsCollector(Collector):
    """The metrics of one engine; register it once."""

    def __init__(
        self,
        metrics: EngineMetrics,
        scheduler: Scheduler,
        *,
        model_name: str,
        cache_config: Mapping[str, str],
    ) -> None:
        """A view of an engine.

        Args:
            cache_config: labels of `cache_config_info`, without the engine's number.
        """
        self._metrics = metrics
        self._scheduler = scheduler
        self._cache_config = cache_config
        self._labels = {"model_name": model_name, "engine": "0"}

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        for name, documentation in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"vllm:{name}", documentation, labels=list(self._labels))
            histogram = self._metrics.histograms[name]
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
            [({**self._cache_config, "engine": self._labels["engine"]}, 1)],
        )

    def _counters(self) -> Iterator[Metric]:
        cache = self._scheduler.kv_cache
        metrics = self._metrics
        cached = metrics.num_cached_tokens
        computed = metrics.num_prompt_tokens - cached
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
            metrics.num_preemptions,
        )
        yield self._counter(
            "prompt_tokens", "Number of prefill tokens processed.", metrics.num_prompt_tokens
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
            metrics.num_generation_tokens,
        )
        yield self._split_counter(
            "request_success",
            "Count of successfully processed requests.",
            "finished_reason",
            metrics.num_finished,
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
