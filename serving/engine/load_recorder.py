"""vLLM's figures of each engine step, as the replica tells them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any

from serving.core.prefill_rate import PrefillRate
from serving.core.progress import ProgressWatch
from serving.core.types import EngineLoad


class LoadRecorder:
    """Keeps vLLM's latest scheduler statistics, and adds up what each step did.

    vLLM calls the instance as a logger factory, then `record` once per engine step on the event
    loop. Source: `StatLoggerBase` in vllm/v1/metrics/loggers.py, vLLM 0.32.
    """

    def __init__(self, config: Any, watch: ProgressWatch) -> None:
        self._config = config
        self._watch = watch
        self._latest = EngineLoad(running=0, waiting=0, kv_blocks_used=0)
        self.queued_tokens: Callable[[], int] = int
        """Prompt tokens of the requests that have no output yet."""
        self._prefill_rate = PrefillRate()
        self._prefilling_since: float | None = None
        self._num_prompt_tokens = 0
        self._num_output_tokens = 0
        self._num_preemptions = 0

    def load(self) -> EngineLoad:
        """Figures of the latest step, the prompts that wait now, and all work so far."""
        return replace(
            self._latest,
            waiting_tokens=self.queued_tokens(),
            prompt_tokens_computed=self._num_prompt_tokens,
            output_tokens=self._num_output_tokens,
            preemptions=self._num_preemptions,
        )

    def __call__(self, config: Any, engine_index: int = 0) -> LoadRecorder:
        del engine_index
        self._config = config
        return self

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        del mm_cache_stats, engine_idx
        now = monotonic()
        self._watch.step(now)
        if iteration_stats is not None:
            self._record_prefill(iteration_stats, now)
            self._add_up(iteration_stats)
        if scheduler_stats is None:
            return
        # BlockPool.get_usage() is a share of all blocks but the null block
        # (vllm/v1/core/block_pool.py, vLLM 0.32).
        usable = max((self._config.cache_config.num_gpu_blocks or 1) - 1, 0)
        self._latest = EngineLoad(
            running=scheduler_stats.num_running_reqs,
            waiting=scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs,
            kv_blocks_used=round(scheduler_stats.kv_cache_usage * usable),
            prefill_tokens_per_s=self._prefill_rate.per_second,
        )

    def _record_prefill(self, stats: Any, now: float) -> None:
        """vLLM tells of a prompt when it is computed, so the time since the last one belongs to
        it, or its own TTFT if nothing was being computed before."""
        if computed := stats.prompt_token_stats.computed:
            since = self._prefilling_since
            seconds = max(stats.time_to_first_tokens_iter) if since is None else now - since
            self._prefill_rate.record(num_tokens=computed, seconds=seconds)
        if not self.queued_tokens():
            self._prefilling_since = None
        elif computed or self._prefilling_since is None:
            self._prefilling_since = now

    def _add_up(self, stats: Any) -> None:
        """Source: `IterationStats` in vllm/v1/metrics/stats.py, vLLM 0.32."""
        self._num_prompt_tokens += stats.prompt_token_stats.computed
        self._num_output_tokens += stats.num_generation_tokens
        self._num_preemptions += stats.num_preempted_reqs

    def log_engine_initialized(self) -> None: ...

    def log(self) -> None: ...

    def record_sleep_state(self, is_awake: int, level: int) -> None: ...
