"""The clock of a simulated engine: admit, schedule, wait as long as the step takes, commit."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np

from serving.core.prefill_rate import PrefillRate
from serving.core.progress import ProgressWatch
from serving.core.types import EngineLoad
from serving.errors import EngineError
from serving.protocol.usage import current_usage
from serving.rendering.refusal import engine_dead
from serving.routing.block_namer import NO_CHANGE, BlockNamer, CacheChange
from serving.simulator.generation import (
    AnswerSource,
    CacheUse,
    Delta,
    Prompt,
    Sampling,
    TokenStream,
)
from serving.simulator.in_flight import InFlight, answers_to, tokens_of
from serving.simulator.limits import check_decoder_prompt
from serving.simulator.metrics import EngineMetrics, RequestTimes, StepCounts
from serving.simulator.request import Request, RequestStatus
from serving.simulator.scheduler import Scheduler
from serving.simulator.step_plan import StepPlan
from serving.simulator.timing import StepTimer

logger = logging.getLogger("ray.serve")


_MAX_LAG_S = 1.0
"""A process that was stopped for longer does not make up for it, as no engine would."""


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What an engine is made of.

    `clock` tells monotonic seconds and `sleep` waits some of them; both are the event loop's.
    """

    scheduler: Scheduler
    timer: StepTimer
    answers: AnswerSource
    metrics: EngineMetrics
    max_model_len: int
    vocab_size: int
    overhead_s: float
    """Between a request's arrival and the first step that can take it."""
    hang_timeout_s: float
    """The longest a single step may take."""
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    namer: BlockNamer | None = None
    """Names the cached blocks for gateways; the cache must record its events then, and be asked."""


class EngineLoop:
    """Generates for all requests together, in real time or in whatever time its clock tells.

    Steps follow an absolute timetable: each begins when the one before it ended, not when this
    process got round to it, so a late wake-up does not slow the engine down.
    """

    def __init__(self, parts: EngineParts) -> None:
        """An engine at rest; `start` it on the running event loop."""
        self.parts = parts
        self._scheduler = parts.scheduler
        self._metrics = parts.metrics
        self._entering: deque[tuple[float, InFlight]] = deque()
        self._running: dict[str, InFlight] = {}
        # Not the clients' own ids: two requests may bear the same one.
        self._request_numbers = count()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._watch = ProgressWatch(parts.hang_timeout_s)
        self._prefill_rate = PrefillRate()

    def start(self) -> None:
        """Begin to step."""
        self._task = asyncio.create_task(self._step_forever())
        self._task.add_done_callback(self._fail_all)

    def shutdown(self) -> None:
        """Stop at once; running generations are lost."""
        if self._task is not None:
            self._task.cancel()

    @property
    def is_dead(self) -> bool:
        """Whether it was shut down or has failed."""
        return self._task is None or self._task.cancelling() > 0 or self._task.done()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to generate."""
        return not self._running

    async def check_health(self) -> None:
        """Return if the engine is alive and, if it has requests, makes steps.

        Raises:
            EngineError: it was shut down, has failed or hangs.
        """
        if self.is_dead:
            raise EngineError("the simulated engine has died", code="engine_dead", retryable=True)
        if self._watch.is_hung(now=self.parts.clock(), busy=not self.is_idle):
            raise EngineError("the simulated engine hangs", code="engine_hung", retryable=True)

    def load(self) -> EngineLoad:
        """Scheduler figures of the latest engine step, and all work so far."""
        return EngineLoad(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting + len(self._entering),
            kv_blocks_used=self._scheduler.kv_cache.num_used,
            waiting_tokens=self._scheduler.num_waiting_tokens
            + self._scheduler.num_prefill_tokens_left
            + sum(running.request.num_prompt_tokens for _, running in self._entering),
            prefill_tokens_per_s=self._prefill_rate.per_second,
            prompt_tokens_computed=self._metrics.num_prompt_tokens
            - self._metrics.num_cached_tokens,
            output_tokens=self._metrics.num_generation_tokens,
            preemptions=self._metrics.num_preemptions,
        )

    def cache_change(self) -> CacheChange:
        """What has changed in the prefix cache since the last call, if it is named at all."""
        namer = self.parts.namer
        return namer.apply(self._scheduler.kv_cache.drain_events()) if namer else NO_CHANGE

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, num_emitted: int = 0
    ) -> TokenStream:
        """The answers to some prompts, which enter the queue when their overhead has passed.

        Args:
            num_emitted: tokens of each answer that another engine has generated, below
                `max_tokens`; the answers go on behind them.

        Raises:
            RequestRefused: a prompt cannot be answered, or the engine is dead.
        """
        if self.is_dead:
            raise engine_dead()
        for prompt in prompts:
            check_decoder_prompt(
                prompt.token_ids,
                max_model_len=self.parts.max_model_len,
                vocab_size=self.parts.vocab_size,
            )
        now = self.parts.clock()
        batch: list[InFlight] = []
        for prompt in prompts:
            batch += answers_to(
                prompt,
                sampling,
                source=self.parts.answers,
                request_numbers=self._request_numbers,
                first_choice=len(batch),
                num_emitted=num_emitted,
            )
        stream = TokenStream(
            [running.request.request_id for running in batch],
            [len(prompt.token_ids) for prompt in prompts],
            sampling.n,
        )
        for running in batch:
            running.stream = stream
            running.times = RequestTimes(arrived_at=now)
            self._running[running.request.request_id] = running
            self._entering.append((now + self.parts.overhead_s, running))
        self._wake.set()
        if (usage := current_usage.get()) is not None:
            usage.follow(partial(tokens_of, batch))
        return stream

    def abort(self, stream: TokenStream) -> None:
        """What is unfinished of a request ends now, and its blocks are free.

        Metrics know nothing of it. Source: `OutputProcessor.abort_requests` in
        vllm/v1/engine/output_processor.py, vLLM 0.32.
        """
        for request_id in stream.request_ids:
            if self._running.pop(request_id, None) is not None:
                self._scheduler.abort(request_id)
        if self._entering:
            self._entering = deque(
                entry for entry in self._entering if entry[1].request.request_id in self._running
            )
        self._wake.set()

    async def _step_forever(self) -> None:
        end = self.parts.clock()
        while True:
            self._admit_entering(end)
            plan = self._scheduler.schedule()
            if not plan.scheduled and not plan.preempted:
                end = await self._next_arrival(end)
                continue
            self._note_scheduled(plan, end)
            seconds = self.parts.timer.seconds(plan)
            self._prefill_rate.record(num_tokens=plan.num_prefill_tokens, seconds=seconds)
            end += seconds
            # A late engine catches up without sleeping, but never keeps the event loop to itself.
            await self.parts.sleep(max(end - self.parts.clock(), 0.0))
            now = self.parts.clock()
            self._watch.step(now)
            if now - end > _MAX_LAG_S:
                end = now
            self._commit(plan, end)

    def _admit_entering(self, now: float) -> None:
        entering = self._entering
        while entering and entering[0][0] <= now:
            entered_at, running = entering.popleft()
            running.times.queued_at = entered_at
            self._expect_blocks(running.request)
            self._scheduler.add(running.request)

    def _expect_blocks(self, request: Request) -> None:
        """Under a sliding window the cache's events alone do not tell which blocks they mean."""
        namer, num_blocks = self.parts.namer, self._scheduler.kv_cache.num_window_blocks
        if namer is None or not num_blocks:
            return
        hasher = namer.hasher
        root = hasher.root(lora_name=request.lora_name, cache_salt=request.cache_salt)
        names = hasher.names(np.asarray(request.token_ids), parent=root).tolist()
        request.extend_hashes(len(names), block_size=hasher.block_size)
        # One more than the window: the prompt's last block is kept only if another follows.
        first = max(len(names) - num_blocks - 1, 0)
        namer.expect(zip(request.block_hashes[first:], names[first:], strict=False))

    async def _next_arrival(self, now: float) -> float:
        """When the next step can begin, at least `now`; returns then, or when something changed."""
        if not self._entering:
            self._wake.clear()
            await self._wake.wait()
            return now
        enters_at = self._entering[0][0]
        await self.parts.sleep(max(enters_at - self.parts.clock(), 0.0))
        return max(now, enters_at)

    def _note_scheduled(self, plan: StepPlan, now: float) -> None:
        """Requests that run for the first time stand last in the batch."""
        for request in reversed(plan.scheduled):
            times = self._running[request.request_id].times
            if times.scheduled_at is not None:
                break
            times.scheduled_at = now

    def _sample(self, request: Request) -> int:
        return self._running[request.request_id].answer.sample()

    def _commit(self, plan: StepPlan, now: float) -> None:
        """Hand the step's tokens to their streams. Hundreds pass here in every step."""
        generated = self._scheduler.commit(plan, self._sample)
        step = StepCounts(num_generation_tokens=len(generated), num_preemptions=len(plan.preempted))
        gaps = step.gaps
        for request, token_id in generated:
            running = self._running[request.request_id]
            times, answer = running.times, running.answer
            if answer.num_tokens == running.num_emitted + 1:
                self._note_first_token(running, step, now)
            else:
                gap = now - times.last_token_at
                gaps[gap] = gaps.get(gap, 0) + 1
            times.last_token_at = now
            status = request.status
            text = answer.take(
                is_stopped=status is RequestStatus.STOPPED,
                is_capped=status is RequestStatus.LENGTH_CAPPED,
            )
            reason = answer.finish_reason
            running.stream.push(Delta(running.choice, text, token_id, reason, answer.stop_reason))
            if reason is not None:
                self._scheduler.abort(request.request_id)
                self._finish(running, reason, now)
        self._metrics.record_step(step)

    def _note_first_token(self, running: InFlight, step: StepCounts, now: float) -> None:
        request, times = running.request, running.times
        times.first_token_at = now
        step.num_prompt_tokens += request.num_prompt_tokens
        step.num_cached_tokens += request.num_cached_tokens
        if not running.num_emitted:
            running.stream.cache_uses[running.choice] = CacheUse(
                request.num_cached_tokens, request.num_created_tokens
            )
        self._metrics.histograms["time_to_first_token_seconds"].observe(now - times.arrived_at)

    def _finish(self, running: InFlight, reason: str, now: float) -> None:
        request, siblings = running.request, running.siblings
        num_tokens = running.answer.num_tokens
        del self._running[request.request_id]
        self._metrics.record_answer(
            running.times,
            {
                "request_prompt_tokens": request.num_prompt_tokens,
                "request_prefill_kv_computed_tokens": (
                    request.num_prompt_tokens - request.num_cached_tokens
                ),
                "request_generation_tokens": num_tokens,
                "request_num_preemptions": request.num_preemptions,
                "request_params_max_tokens": running.sampling.max_tokens,
            },
            reason=reason,
            now=now,
        )
        siblings.num_open -= 1
        siblings.most_tokens = max(siblings.most_tokens, num_tokens)
        if not siblings.num_open:
            self._metrics.record_prompt(n=running.sampling.n, most_tokens=siblings.most_tokens)

    def _fail_all(self, task: asyncio.Task[None]) -> None:
        """The loop has ended: nobody waits for its tokens for ever."""
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the simulated engine has failed", exc_info=error)
        for running in self._running.values():
            running.stream.fail(engine_dead())
        self._running.clear()
        self._entering.clear()
