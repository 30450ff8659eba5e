"""The clock of a simulated engine: admit, schedule, wait as long as the step takes, commit."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count

from serving.core.types import EngineLoad
from serving.errors import EngineError
from serving.simulator.generation import Answer, AnswerSource, Delta, Prompt, Sampling, TokenStream
from serving.simulator.metrics import EngineMetrics, RequestTimes, StepCounts
from serving.simulator.refusal import RequestRefused, engine_dead
from serving.simulator.scheduler import Request, RequestStatus, Scheduler, StepPlan
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
    block_size: int
    overhead_s: float
    """Between a request's arrival and the first step that can take it."""
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class _Siblings:
    """The answers to one prompt."""

    num_open: int
    most_tokens: int = 0


class _Running:
    """One answer in the engine."""

    __slots__ = ("answer", "choice", "request", "sampling", "siblings", "stream", "times")

    def __init__(self, request: Request, answer: Answer, sampling: Sampling, choice: int) -> None:
        self.request = request
        self.answer = answer
        self.sampling = sampling
        self.choice = choice
        self.stream: TokenStream
        self.times: RequestTimes
        self.siblings: _Siblings


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
        self._entering: deque[tuple[float, _Running]] = deque()
        self._running: dict[str, _Running] = {}
        # Not the clients' own ids: two requests may bear the same one.
        self._request_numbers = count()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.last_step_at = parts.clock()
        """When the latest step began or ended, in seconds of the clock. Says nothing of an engine
        that `is_idle`."""

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
        """Return if the engine works.

        Raises:
            EngineError: it was shut down or has failed.
        """
        if self.is_dead:
            raise EngineError("the simulated engine has died", code="engine_dead", retryable=True)

    def load(self) -> EngineLoad:
        """Scheduler figures of the latest engine step."""
        return EngineLoad(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting + len(self._entering),
            kv_blocks_used=self._scheduler.kv_cache.num_used,
        )

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> TokenStream:
        """The answers to some prompts, which enter the queue when their overhead has passed.

        Raises:
            RequestRefused: a prompt cannot be answered, or the engine is dead.
        """
        if self.is_dead:
            raise engine_dead()
        for prompt in prompts:
            self._check(prompt)
        now = self.parts.clock()
        batch = [
            running
            for index, prompt in enumerate(prompts)
            for running in self._prepare(prompt, sampling, index)
        ]
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

    def _check(self, prompt: Prompt) -> None:
        """Source: `_validate_prompt_len` in vllm/v1/engine/input_processor.py, vLLM 0.32."""
        num_tokens, limit = len(prompt.token_ids), self.parts.max_model_len
        if not num_tokens:
            raise RequestRefused("The decoder prompt cannot be empty")
        if num_tokens >= limit:
            raise RequestRefused(
                f"The decoder prompt (length {num_tokens}) plus the number of requested output "
                f"tokens (at least 1) is longer than the maximum model length of {limit}. Make "
                "sure that `max_model_len` is no smaller than the number of text tokens (prompt + "
                "requested output tokens)."
            )
        outside = next(
            (i for i in (max(prompt.token_ids), min(prompt.token_ids)) if not self._is_known(i)),
            None,
        )
        if outside is not None:
            raise RequestRefused(f"Token id {outside} is out of vocabulary")

    def _is_known(self, token_id: int) -> bool:
        return 0 <= token_id < self.parts.vocab_size

    def _prepare(self, prompt: Prompt, sampling: Sampling, prompt_index: int) -> list[_Running]:
        source = self.parts.answers
        stop_ids = sampling.stop_token_ids | {source.vocabulary.stop_id}
        if sampling.ignore_eos:
            stop_ids = sampling.stop_token_ids
        batch = []
        for index, rng in enumerate(source.rngs(prompt, sampling.n)):
            request = Request(
                str(next(self._request_numbers)),
                prompt.token_ids,
                max_tokens=sampling.max_tokens,
                stop_token_ids=stop_ids,
                lora_name=prompt.lora_name,
                cache_salt=prompt.cache_salt,
            )
            answer = Answer(source, rng, sampling, is_chat=prompt.is_chat)
            batch.append(_Running(request, answer, sampling, prompt_index * sampling.n + index))
        siblings = _Siblings(len(batch))
        for running in batch:
            running.siblings = siblings
        return batch

    async def _step_forever(self) -> None:
        end = self.parts.clock()
        while True:
            self._admit_entering(end)
            plan = self._scheduler.schedule()
            if not plan.scheduled and not plan.preempted:
                end = await self._next_arrival(end)
                continue
            self.last_step_at = self.parts.clock()
            self._note_scheduled(plan, end)
            end += self.parts.timer.seconds(plan)
            # A late engine catches up without sleeping, but never keeps the event loop to itself.
            await self.parts.sleep(max(end - self.parts.clock(), 0.0))
            self.last_step_at = self.parts.clock()
            if self.last_step_at - end > _MAX_LAG_S:
                end = self.last_step_at
            self._commit(plan, end)

    def _admit_entering(self, now: float) -> None:
        entering = self._entering
        while entering and entering[0][0] <= now:
            entered_at, running = entering.popleft()
            running.times.queued_at = entered_at
            self._scheduler.add(running.request)

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
            if answer.num_tokens == 1:
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

    def _note_first_token(self, running: _Running, step: StepCounts, now: float) -> None:
        request, times = running.request, running.times
        times.first_token_at = now
        step.num_prompt_tokens += request.num_prompt_tokens
        step.num_cached_tokens += request.num_cached_tokens
        if running.choice == 0:
            num_kept = request.num_prompt_tokens // self.parts.block_size * self.parts.block_size
            running.stream.num_cached_tokens = request.num_cached_tokens
            running.stream.num_created_tokens = max(num_kept - request.num_cached_tokens, 0)
        self._metrics.histograms["time_to_first_token_seconds"].observe(now - times.arrived_at)

    def _finish(self, running: _Running, reason: str, now: float) -> None:
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
