"""What vLLM's metrics count, in plain numbers. `metrics_collector.py` shows them to Prometheus.

Source: vllm/v1/metrics/loggers.py, stats.py and buckets.py, vLLM 0.32.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

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

_BOUNDS: Mapping[str, tuple[float, ...] | None] = {
    "request_prompt_tokens": None,
    "request_generation_tokens": None,
    "request_max_num_generation_tokens": None,
    "request_params_n": _CHOICES,
    "request_params_max_tokens": None,
    "request_prefill_kv_computed_tokens": None,
    "request_num_preemptions": _PREEMPTIONS,
    "iteration_tokens_total": _STEP_TOKENS,
    "time_to_first_token_seconds": _TTFT_S,
    "inter_token_latency_seconds": _ITL_S,
    "request_time_per_output_token_seconds": _ITL_S,
    "e2e_request_latency_seconds": _LATENCY_S,
    "request_queue_time_seconds": _LATENCY_S,
    "request_inference_time_seconds": _LATENCY_S,
    "request_prefill_time_seconds": _LATENCY_S,
    "request_decode_time_seconds": _LATENCY_S,
}
"""By histogram; `None` for token counts, whose bounds follow the model."""


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


class EngineMetrics:
    """What one engine has done since its start."""

    def __init__(self, *, max_model_len: int) -> None:
        token_bounds = tuple(_one_two_five(max_model_len))
        self.histograms = {
            name: Histogram(token_bounds if bounds is None else bounds)
            for name, bounds in _BOUNDS.items()
        }
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self.num_generation_tokens = 0
        self.num_preemptions = 0
        self.num_finished = dict.fromkeys(_FINISHED_REASONS, 0)

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
