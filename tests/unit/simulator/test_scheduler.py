"""Continuous batching, in the cases that a person can follow, and what holds under any load. The
proof that all this is what vLLM does is `tests/integration/test_simulator_agrees_with_vllm.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.simulator.block_pool import NULL_BLOCK
from serving.simulator.kv_cache import KvCacheConfig
from serving.simulator.request import Request, RequestStatus
from serving.simulator.scheduler import Scheduler, SchedulerConfig
from serving.simulator.step_plan import StepPlan

BLOCK_SIZE = 4


def engine(num_usable: int = 100, *, window: int | None = None, **limits: int) -> Scheduler:
    cache = KvCacheConfig(num_usable + 1, BLOCK_SIZE, sliding_window=window)
    defaults = {"max_model_len": 64, "max_num_seqs": 8, "max_num_batched_tokens": 64}
    return Scheduler(SchedulerConfig(cache, **(defaults | limits)))


def add(scheduler: Scheduler, request_id: str, prompt: Iterable[int], **options: Any) -> Request:
    request = Request(request_id, list(prompt), **({"max_tokens": 10} | options))
    scheduler.add(request)
    return request


def step(scheduler: Scheduler, *, token_id: int = 7) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens computed and tokens generated, by request."""
    plan = scheduler.schedule()
    generated = scheduler.commit(plan, sample=lambda request: token_id)
    return ids(plan), {request.request_id: token for request, token in generated}


def ids(plan: StepPlan) -> dict[str, int]:
    return {request.request_id: num_tokens for request, num_tokens in plan.scheduled.items()}


def output(request: Request) -> list[int]:
    return request.token_ids[request.num_prompt_tokens :].tolist()


def test_a_request_from_prefill_to_its_last_token() -> None:
    scheduler = engine()
    request = add(scheduler, "a", range(10), max_tokens=3)

    assert step(scheduler) == ({"a": 10}, {"a": 7})
    assert step(scheduler) == ({"a": 1}, {"a": 7})
    assert step(scheduler) == ({"a": 1}, {"a": 7})
    assert step(scheduler) == ({}, {})
    assert request.status is RequestStatus.LENGTH_CAPPED
    assert output(request) == [7, 7, 7]
    assert scheduler.kv_cache.num_used == 0


def test_a_stop_token_ends_the_output() -> None:
    scheduler = engine()
    request = add(scheduler, "a", range(10), stop_token_ids=[5])
    step(scheduler)
    step(scheduler, token_id=5)

    assert request.status is RequestStatus.STOPPED
    assert request.is_finished
    assert output(request) == [7, 5]


def test_the_longest_sequence_ends_the_output() -> None:
    scheduler = engine(max_model_len=12)
    request = add(scheduler, "a", range(10))
    step(scheduler)
    step(scheduler)

    assert request.status is RequestStatus.LENGTH_CAPPED
    assert len(request.token_ids) == 12


def test_running_requests_come_first_and_prompts_share_what_is_left() -> None:
    scheduler = engine(max_num_batched_tokens=16)
    add(scheduler, "a", range(10))
    step(scheduler)
    add(scheduler, "b", range(100, 120))
    add(scheduler, "c", range(200, 210))

    assert step(scheduler) == ({"a": 1, "b": 15}, {"a": 7})
    assert step(scheduler) == ({"a": 1, "b": 5, "c": 10}, {"a": 7, "b": 7, "c": 7})


def test_no_more_than_max_num_seqs_run() -> None:
    scheduler = engine(max_num_seqs=2)
    for name in "abc":
        add(scheduler, name, range(10), max_tokens=1)

    assert list(step(scheduler)[0]) == ["a", "b"]
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 1)
    assert list(step(scheduler)[0]) == ["c"]


def test_a_request_that_does_not_fit_holds_up_those_behind_it() -> None:
    scheduler = engine(num_usable=6)
    add(scheduler, "a", range(10))
    add(scheduler, "large", range(100, 120))
    add(scheduler, "small", [1])

    assert list(step(scheduler)[0]) == ["a"]
    assert scheduler.num_waiting_tokens == 21


def test_the_newest_is_preempted_and_resumes_first() -> None:
    scheduler = engine(num_usable=6)
    add(scheduler, "old", range(10), max_tokens=4)
    new = add(scheduler, "new", range(100, 111), max_tokens=4)
    add(scheduler, "next", range(200, 206))
    step(scheduler)
    step(scheduler)
    plan = scheduler.schedule()

    assert plan.preempted == [new]
    assert ids(plan) == {"old": 1}
    assert [request.request_id for request in scheduler.waiting] == ["new", "next"]
    assert output(new) == [7, 7]
    assert scheduler.num_waiting_tokens == 13 + 6


def test_a_preempted_request_goes_on_where_it_was() -> None:
    scheduler = engine(num_usable=6)
    add(scheduler, "old", range(10), max_tokens=4)
    new = add(scheduler, "new", range(100, 111), max_tokens=4)
    while not new.is_finished:
        step(scheduler)

    assert new.num_preemptions == 1
    assert output(new) == [7, 7, 7, 7]
    assert new.num_cached_tokens == 0
    # Its own blocks were still there, but a resumption is not a hit in the metrics.
    assert scheduler.kv_cache.num_hit_tokens == 0
    assert scheduler.kv_cache.num_query_tokens == 21


def test_cached_tokens_of_a_repeated_prompt() -> None:
    scheduler = engine()
    add(scheduler, "a", range(10))
    again = add(scheduler, "b", range(10))

    assert step(scheduler)[0] == {"a": 10, "b": 2}
    assert again.num_cached_tokens == 8
    assert scheduler.kv_cache.num_hit_tokens == 8
    assert scheduler.kv_cache.num_query_tokens == 20


def test_aborted_requests_hold_nothing() -> None:
    scheduler = engine(max_num_seqs=1)
    running = add(scheduler, "running", range(10))
    waiting = add(scheduler, "waiting", range(10))
    plan = scheduler.schedule()
    for name in ("running", "waiting", "unknown"):
        scheduler.abort(name)

    assert scheduler.commit(plan, sample=lambda request: 7) == []
    assert running.status is waiting.status is RequestStatus.ABORTED
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)
    assert (scheduler.kv_cache.num_used, scheduler.num_waiting_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "message"),
    [([], 1, "prompt of 0"), (range(64), 1, "prompt of 64"), ([1], 0, "max_tokens is 0")],
)
def test_what_cannot_be_answered_is_refused(
    prompt: Iterable[int], max_tokens: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        add(engine(), "a", prompt, max_tokens=max_tokens)


def test_ids_are_unique_among_unfinished_requests() -> None:
    scheduler = engine()
    add(scheduler, "a", range(10))
    with pytest.raises(ValueError, match="not finished"):
        add(scheduler, "a", range(10))

    scheduler.abort("a")
    add(scheduler, "a", range(10))


@pytest.mark.parametrize("window", [None, 6])
def test_totals_of_a_step(window: int | None) -> None:
    scheduler = engine(window=window)
    add(scheduler, "a", range(10))
    step(scheduler)
    add(scheduler, "b", range(100, 108))
    plan = scheduler.schedule()

    seen = [min(length, window or length) for length in range(1, 9)]
    assert (plan.num_prefill_tokens, plan.num_prefill_context_tokens) == (8, sum(seen))
    assert (plan.num_decodes, plan.num_decode_context_tokens) == (1, window or 11)


@dataclass(frozen=True)
class Load:
    """An engine, and for each step the requests that arrive and whether one is aborted."""

    num_usable: int
    window: int | None
    budget: int
    steps: list[tuple[list[tuple[int, int, int]], bool]]


arrivals = st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 12))
"""Which of three texts, how much of it, and how many tokens of output."""
loads = st.builds(
    Load,
    num_usable=st.integers(8, 24),
    window=st.sampled_from([None, 1, 6, 17]),
    budget=st.sampled_from([3, 16, 64]),
    steps=st.lists(st.tuples(st.lists(arrivals, max_size=3), st.booleans()), max_size=25),
)
anything = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def run(load: Load) -> list[tuple[dict[str, int], list[int]]]:
    """Tokens computed and generated in each step, until nothing is left to do."""
    scheduler = engine(
        load.num_usable, window=load.window, max_num_batched_tokens=load.budget, max_model_len=32
    )
    log = []
    pending = list(load.steps)
    while pending or scheduler.num_running or scheduler.num_waiting:
        new, abort = pending.pop(0) if pending else ([], False)
        for index, (text, length, max_tokens) in enumerate(new):
            prompt = [text * position % 7 for position in range(length)]
            add(scheduler, f"{len(log)}-{index}", prompt, max_tokens=max_tokens)
        if abort and scheduler.running:
            scheduler.abort(scheduler.running[-1].request_id)
        plan = scheduler.schedule()
        check_blocks(scheduler, load)
        generated = scheduler.commit(plan, sample=lambda request: len(request.token_ids) % 5)
        log.append((ids(plan), [token for _, token in generated]))
    assert scheduler.kv_cache.usage == 0.0
    return log


def check_blocks(scheduler: Scheduler, load: Load) -> None:
    tables = [
        [block for block in request.block_ids if block != NULL_BLOCK]
        for request in scheduler.running
    ]
    used = {block for table in tables for block in table}
    free = scheduler.kv_cache.free_blocks
    assert all(len(table) == len(set(table)) for table in tables)
    assert len(free) == len(set(free)) == scheduler.kv_cache.num_free
    assert used.isdisjoint(free)
    assert used | set(free) == set(range(1, load.num_usable + 1))
    assert scheduler.kv_cache.num_used == len(used)
    assert all(not request.block_ids for request in scheduler.waiting)
    assert 0.0 <= scheduler.kv_cache.usage <= 1.0


@anything
@given(loads)
def test_blocks_are_used_or_free_and_the_same_load_takes_the_same_steps(load: Load) -> None:
    assert run(load) == run(load)
