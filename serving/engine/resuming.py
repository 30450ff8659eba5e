"""Journaled generations on vLLM: outputs are noted on their way, and those of another replica come
first.

The request is taken in as it is, so that usage, checks and the detokenizer's beginning are those
of its own prompt. What the engine's process gets is another one: the prompt and the tokens
generated so far, and as many fewer to come. The detokenizer is told those tokens as if they had
just been generated, which puts it right in the middle of a character, or of a stop string.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from serving.protocol.journal import Journal, Output, current_journal

_REPLAYED_AT_ONCE = 32
_TOLD_AT_ONCE = 1024
"""So that other streams, and their heartbeats, go on meanwhile."""

MakeOutput = Callable[[str, Mapping[str, Any], Output], Any]
"""vLLM's `RequestOutput` of a request's id, its prompt and what was noted."""


def journal_generations(llm: Any, make_output: MakeOutput, dead: type[Exception]) -> None:
    """Let the generations of journaled requests be noted, and continued where there is a journal.

    Args:
        llm: vLLM's `AsyncLLM`.
        dead: what it raises when its engine is gone.

    Source: `AsyncLLM.generate` and `AsyncLLM._add_request` in vllm/v1/engine/async_llm.py, vLLM
        0.32.
    """
    generate, add_request = llm.generate, llm.engine_core.add_request_async
    has_watermark = llm.vllm_config.watermark_config is not None

    async def journaled(
        prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncIterator[Any]:
        is_marked = has_watermark and sampling_params.watermarking is not False
        can_resume = not is_marked and _can_resume(prompt, sampling_params)
        async with aclosing(generate(prompt, sampling_params, request_id, **options)) as outputs:
            journal = current_journal.get()
            if journal is not None and journal.begin(can_resume=can_resume):
                for number, noted in enumerate(journal.replay(), 1):
                    yield make_output(request_id, prompt, noted)
                    if number % _REPLAYED_AT_ONCE == 0:
                        await asyncio.sleep(0)
                outputs = _noting(outputs, journal, dead)
            async for output in outputs:
                yield output

    async def add_continued(request: Any) -> None:
        journal = current_journal.get()
        emitted = journal.token_ids if journal is not None else []
        if emitted:
            try:
                state = llm.output_processor.request_states[request.request_id]
                await _tell_emitted(state, emitted)
            except BaseException:
                # It is registered already, and nobody else would end it.
                await llm.abort(request.request_id, internal=True)
                raise
            request = _continued(request, emitted)
        await add_request(request)

    llm.generate = journaled
    llm.engine_core.add_request_async = add_continued


async def _tell_emitted(state: Any, emitted: list[int]) -> None:
    """Bring a request's state to where these tokens have been generated and sent.

    Source: `RequestState.make_request_output` in vllm/v1/engine/output_processor.py, vLLM 0.32.
    """
    for start in range(0, len(emitted), _TOLD_AT_ONCE):
        state.detokenizer.update(emitted[start : start + _TOLD_AT_ONCE], False)
        await asyncio.sleep(0)
    state.detokenizer.get_next_output_text(False, True)
    state.sent_tokens_offset = state.detokenizer.num_output_tokens()


async def _noting(
    outputs: AsyncIterator[Any], journal: Journal, dead: type[Exception]
) -> AsyncIterator[Any]:
    """The engine's own outputs."""
    is_first = not journal.token_ids
    if journal.is_finished:
        return
    try:
        async for output in outputs:
            journal.note(_noted(output, is_first=is_first))
            is_first = False
            yield output
    except dead:
        journal.is_lost = True
        raise


def _can_resume(prompt: Any, params: Any) -> bool:
    """Whether the tokens so far are all that the next one depends on.

    Not with several answers, log probabilities, images; nor where the engine keeps a state of its
    own: a grammar's, a generator's under a seed, the counts of penalties, which leave out prompts.
    """
    has_state = (
        params.structured_outputs is not None
        or (params.seed is not None and params.temperature > 0)
        or params.presence_penalty != 0
        or params.frequency_penalty != 0
        or bool(params.bad_words)
        or params.thinking_token_budget is not None
        or params.repetition_detection is not None
    )
    return (
        not has_state
        and params.n == 1
        and params.num_logprobs is None
        and params.prompt_logprobs is None
        and params.output_kind.name == "DELTA"
        and isinstance(prompt, dict)
        and prompt.get("type") == "token"
    )


def _noted(output: Any, *, is_first: bool) -> Output:
    (answer,) = output.outputs
    return Output(
        tuple(answer.token_ids),
        answer.text,
        answer.finish_reason,
        answer.stop_reason,
        output.num_cached_tokens if is_first else None,
        output.num_cache_creation_tokens if is_first else None,
    )


def _continued(request: Any, emitted: list[int]) -> Any:
    """The request that goes on behind the tokens `emitted`."""
    continued = copy.copy(request)
    params = request.sampling_params.clone()
    params.max_tokens -= len(emitted)
    params.min_tokens = max(params.min_tokens - len(emitted), 0)
    continued.prompt_token_ids = [*request.prompt_token_ids, *emitted]
    continued.sampling_params = params
    return continued
