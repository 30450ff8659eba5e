"""Counting what each request takes of vLLM, for whoever is accounted for it."""

from __future__ import annotations

from functools import partial
from typing import Any

from serving.protocol.usage import TokenCounts, current_usage


def meter_requests(llm: Any) -> None:
    """Let `current_usage` follow every sequence that is handed to the engine.

    vLLM keeps each sequence's state and counts in it what its answer's usage reports, so nothing
    has to be done when tokens come. The state is what is read at the end, when vLLM itself has long
    let go of it: also of an answer that was aborted, or that nobody saw before it was whole.

    What a sequence has got before it is handed over, another replica has generated: that is where
    an answer goes on, whose prompt was counted there. So `resuming.journal_generations` must come
    after this.

    Args:
        llm: vLLM's `AsyncLLM`.

    Source: `AsyncLLM._add_request` in vllm/v1/engine/async_llm.py and `RequestState` in
        vllm/v1/engine/output_processor.py, vLLM 0.32.
    """
    add_request = llm.engine_core.add_request_async

    async def add_metered(request: Any) -> None:
        usage = current_usage.get()
        state = llm.output_processor.request_states.get(request.request_id)
        if usage is not None and state is not None:
            usage.follow(partial(_counts, state, num_emitted=_num_output_tokens(state)))
        await add_request(request)

    llm.engine_core.add_request_async = add_metered


def _counts(state: Any, *, num_emitted: int) -> TokenCounts:
    """What a sequence has taken. Of several to one prompt, only the first counts the prompt."""
    output = _num_output_tokens(state) - num_emitted
    if state.is_prefilling or state.request_index or num_emitted:
        return TokenCounts(output=output)
    return TokenCounts(state.prompt_len, state.num_cached_tokens, output)


def _num_output_tokens(state: Any) -> int:
    """0 for embeddings, which have no detokenizer."""
    return 0 if state.detokenizer is None else int(state.detokenizer.num_output_tokens())
