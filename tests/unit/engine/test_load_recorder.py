"""What vLLM tells of its steps adds up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from serving.core.progress import ProgressWatch
from serving.engine.load_recorder import LoadRecorder

CONFIG = SimpleNamespace(cache_config=SimpleNamespace(num_gpu_blocks=101))


def scheduler(*, running: int, waiting: int = 0, usage: float = 0.0) -> Any:
    return SimpleNamespace(
        num_running_reqs=running,
        num_waiting_reqs=waiting,
        num_skipped_waiting_reqs=0,
        kv_cache_usage=usage,
    )


def iteration(*, computed: int = 0, generated: int = 0, preempted: int = 0) -> Any:
    return SimpleNamespace(
        prompt_token_stats=SimpleNamespace(computed=computed),
        num_generation_tokens=generated,
        num_preempted_reqs=preempted,
        time_to_first_tokens_iter=[0.1] if computed else [],
    )


def test_work_adds_up_and_load_is_the_latest() -> None:
    recorder = LoadRecorder(CONFIG, ProgressWatch(60))
    recorder.queued_tokens = lambda: 300
    recorder.record(
        scheduler(running=2, waiting=1, usage=0.25), iteration(computed=70, generated=1)
    )
    recorder.record(scheduler(running=1, usage=0.1), iteration(generated=2, preempted=1))
    load = recorder.load()
    assert (load.running, load.waiting, load.kv_blocks_used, load.waiting_tokens) == (1, 0, 10, 300)
    assert (load.prompt_tokens_computed, load.output_tokens, load.preemptions) == (70, 3, 1)


def test_half_a_report_tells_its_half() -> None:
    recorder = LoadRecorder(CONFIG, ProgressWatch(60))
    recorder.record(scheduler(running=2), None)
    recorder.record(None, iteration(computed=70, generated=1))
    load = recorder.load()
    assert (load.running, load.prompt_tokens_computed, load.output_tokens) == (2, 70, 1)
