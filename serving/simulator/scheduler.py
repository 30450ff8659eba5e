"""Continuous batching, decided as vLLM 0.32 decides it.

First come, first served; chunked prefill; no speculative decoding, no asynchronous scheduling.

Source: `Scheduler.schedule` and `update_from_output` in vllm/v1/core/sched/scheduler.py, vLLM 0.32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.simulator.kv_cache import KvCache, KvCacheConfig
from serving.simulator.request import Request, RequestStatus
from serving.simulator.step_plan import StepPlan


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The limits of one engine, each at least 1."""

    kv_cache: KvCacheConfig
    max_model_len: int
    """Tokens in the longest sequence, prompt and output together."""
    max_num_seqs: int
    """Requests that run at once."""
    max_num_batched_tokens: int
    """Tokens computed in one step."""


class Scheduler:
    """The waiting and the running requests of one engine.

    A step is `schedule`, then the time it takes, then `commit`. Requests may be added and aborted
    between any two of them.

    >>> cache = KvCacheConfig(num_blocks=9, block_size=4)
    >>> limits = SchedulerConfig(cache, max_model_len=32, max_num_seqs=2, max_num_batched_tokens=8)
    >>> scheduler = Scheduler(limits)
    >>> scheduler.add(Request("a", range(10), max_tokens=2))
    >>> for _ in range(3):
    ...     plan = scheduler.schedule()
    ...     tokens = [token for _, token in scheduler.commit(plan, sample=lambda request: 7)]
    ...     plan.num_prefill_tokens, plan.num_decodes, tokens
    (8, 0, [])
    (2, 0, [7])
    (0, 1, [7])
    """

    def __init__(self, config: SchedulerConfig) -> None:
        """An idle engine."""
        self._config = config
        self._requests: dict[str, Request] = {}
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._num_waiting_tokens = 0
        self._window = config.kv_cache.sliding_window or config.max_model_len
        self.kv_cache = KvCache(
            config.kv_cache,
            max_model_len=config.max_model_len,
            max_in_flight_tokens=config.max_num_batched_tokens,
        )

    @property
    def running(self) -> Sequence[Request]:
        """Admitted requests, oldest admission first."""
        return self._running

    @property
    def waiting(self) -> Sequence[Request]:
        """Requests that wait for admission, next first."""
        return self._waiting

    @property
    def num_running(self) -> int:
        """`vllm:num_requests_running`."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """`vllm:num_requests_waiting`."""
        return len(self._waiting)

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens that waiting requests have to compute if they hit nothing in the prefix cache."""
        return self._num_waiting_tokens

    @property
    def num_prefill_tokens_left(self) -> int:
        """Prompt tokens that admitted requests have yet to compute."""
        return sum(
            request.num_prompt_tokens - request.num_computed_tokens
            for request in self._running
            if request.num_computed_tokens < request.num_prompt_tokens
        )

    def add(self, request: Request) -> None:
        """`request` waits behind all others.

        Raises:
            ValueError: the prompt is empty or leaves no room for a token, `max_tokens` is not
                positive, or a request with this id is unfinished.
        """
        if not 0 < request.num_prompt_tokens < self._config.max_model_len:
            raise ValueError(f"a prompt of {request.num_prompt_tokens} tokens cannot be answered")
        if request.max_tokens < 1:
            raise ValueError(f"max_tokens is {request.max_tokens}, not positive")
        if request.request_id in self._requests:
            raise ValueError(f"request {request.request_id} is not finished")
        request.total_tokens_limit = min(request.total_tokens_limit, self._config.max_model_len)
        self._requests[request.request_id] = request
        self._waiting.append(request)
        self._num_waiting_tokens += request.num_prompt_tokens

    def abort(self, request_id: str) -> None:
        """The request, if it is unfinished, is aborted and holds nothing."""
        request = self._requests.get(request_id)
        if request is None:
            return
        if request.status is RequestStatus.RUNNING:
            self._running.remove(request)
        else:
            self._waiting.remove(request)
            self._num_waiting_tokens -= len(request.token_ids)
        self._finish(request, RequestStatus.ABORTED)

    def schedule(self) -> StepPlan:
        """What the next step computes; blocks are allocated for it.

        Running requests come first. New ones are admitted unless that preempted any.
        """
        plan = StepPlan()
        budget = self._schedule_running(plan)
        if not plan.preempted:
            self._admit_waiting(plan, budget)
        return plan

    def commit(self, plan: StepPlan, sample: Callable[[Request], int]) -> list[tuple[Request, int]]:
        """The tokens that the step generated, each with its request, finished or not.

        Requests aborted since, and those with prompt left to compute, generate none.

        Args:
            plan: what `schedule` has just returned.
            sample: the next token of a request. It must not call the scheduler.
        """
        generated: list[tuple[Request, int]] = []
        any_finished = False
        for request in plan.scheduled:
            token_ids = request.token_ids
            # Prompt is left to compute, or an abort has left nothing computed.
            if request.num_computed_tokens != len(token_ids):
                continue
            token_id = sample(request)
            if len(token_ids) == request.num_prompt_tokens:
                num_stored = self.kv_cache.num_stored_tokens(request)
                request.num_created_tokens = max(num_stored - request.num_cached_tokens, 0)
            token_ids.append(token_id)
            generated.append((request, token_id))
            if token_id in request.stop_token_ids:
                self._finish(request, RequestStatus.STOPPED)
                any_finished = True
            elif len(token_ids) >= request.total_tokens_limit:
                self._finish(request, RequestStatus.LENGTH_CAPPED)
                any_finished = True
        if any_finished:
            running = RequestStatus.RUNNING
            self._running = [request for request in self._running if request.status is running]
        return generated

    def _schedule_running(self, plan: StepPlan) -> int:
        """The token budget left once the running requests have been scheduled.

        Hundreds of decodes pass here in every step, so the totals are kept in local variables.
        """
        budget = self._config.max_num_batched_tokens
        window = self._window
        scheduled = plan.scheduled
        num_decodes = num_decode_context_tokens = 0
        # Preemption shortens the list from its end, which the iteration bears.
        for request in self._running:
            if not budget:
                break
            num_computed = request.num_computed_tokens
            end = len(request.token_ids)
            num_new = end - num_computed
            if num_new > budget:
                num_new = budget
                end = num_computed + num_new
            if end > request.quiet_tokens and not self._make_room(request, num_new, plan):
                break
            request.num_computed_tokens = end
            scheduled[request] = num_new
            budget -= num_new
            if num_new == 1:
                num_decodes += 1
                num_decode_context_tokens += end if end < window else window
            else:
                plan.add_prefill(num_computed, num_new, window=window)
        plan.num_decodes += num_decodes
        plan.num_decode_context_tokens += num_decode_context_tokens
        return budget

    def _make_room(self, request: Request, num_new_tokens: int, plan: StepPlan) -> bool:
        """Whether `request` can go on, after preempting as many of the newest as that takes."""
        while not self.kv_cache.grow(request, num_new_tokens=num_new_tokens):
            victim = self._running.pop()
            self._preempt(victim)
            plan.preempted.append(victim)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request) -> None:
        self.kv_cache.release(request)
        request.status = RequestStatus.PREEMPTED
        request.num_preemptions += 1
        self._waiting.appendleft(request)
        self._num_waiting_tokens += len(request.token_ids)

    def _admit_waiting(self, plan: StepPlan, budget: int) -> None:
        while budget and self._waiting and len(self._running) < self._config.max_num_seqs:
            request = self._waiting[0]
            num_new = self._admit(request, budget)
            if not num_new:
                break
            self._running.append(self._waiting.popleft())
            self._num_waiting_tokens -= len(request.token_ids)
            plan.scheduled[request] = num_new
            budget -= num_new
            if num_new == 1:
                plan.add_decode(request.num_computed_tokens, window=self._window)
            else:
                plan.add_prefill(request.num_computed_tokens, num_new, window=self._window)
            request.num_computed_tokens += num_new

    def _admit(self, request: Request, budget: int) -> int:
        """Tokens to compute now, 0 if there is no room for the request."""
        hit = self.kv_cache.find_hit(request)
        num_hit_tokens = len(hit) * self._config.kv_cache.block_size
        num_new = min(len(request.token_ids) - num_hit_tokens, budget)
        if not self.kv_cache.admit(request, hit, num_new_tokens=num_new):
            return 0
        request.status = RequestStatus.RUNNING
        if not request.num_preemptions:
            # vLLM counts later admissions apart, so that they do not look like good hit rates.
            request.num_cached_tokens = num_hit_tokens
            self.kv_cache.record_lookup(
                num_tokens=len(request.token_ids), num_hit_tokens=num_hit_tokens
            )
        return num_new

    def _finish(self, request: Request, status: RequestStatus) -> None:
        self.kv_cache.release(request)
        request.status = status
        del self._requests[request.request_id]
