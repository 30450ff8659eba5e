"""What vLLM's sequences count of themselves is what a request has taken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from serving.engine.resuming import journal_generations
from serving.engine.usage_meter import meter_requests
from serving.protocol.journal import Journal, JournalReader, Output, current_journal
from serving.protocol.usage import RequestUsage, TokenCounts, current_usage


class Detokenizer:
    """Counts tokens, as vLLM's do."""

    def __init__(self) -> None:
        self._num_tokens = 0

    def update(self, token_ids: list[int], _stop_terminated: bool) -> None:
        self._num_tokens += len(token_ids)

    def num_output_tokens(self) -> int:
        return self._num_tokens

    def get_next_output_text(self, _finished: bool, _delta: bool) -> str:
        return ""


class FakeLlm:
    """Registers sequences as vLLM does, and steps when it is told to."""

    def __init__(self) -> None:
        self.output_processor = SimpleNamespace(request_states={})
        self.engine_core = SimpleNamespace(add_request_async=self._add)
        self.vllm_config = SimpleNamespace(watermark_config=None)
        self.added: list[str] = []

    async def generate(self, *_args: Any) -> None:
        raise AssertionError("only what follows from it is under test")

    async def _add(self, request: Any) -> None:
        self.added.append(request.request_id)

    async def add(self, name: str, *, prompt_len: int = 10, **state: Any) -> SimpleNamespace:
        values = {"num_cached_tokens": 0, "request_index": 0, "detokenizer": Detokenizer(), **state}
        made = SimpleNamespace(
            prompt_len=prompt_len, is_prefilling=True, sent_tokens_offset=0, **values
        )
        self.output_processor.request_states[name] = made
        params = SimpleNamespace(max_tokens=99, min_tokens=0)
        params.clone = lambda: params
        request = SimpleNamespace(
            request_id=name, prompt_token_ids=list(range(prompt_len)), sampling_params=params
        )
        await self.engine_core.add_request_async(request)
        return made


def step(state: SimpleNamespace, *, num_tokens: int = 1, cached: int | None = None) -> None:
    state.is_prefilling = False
    if cached is not None:
        state.num_cached_tokens = cached
    if state.detokenizer is not None:
        state.detokenizer.update([7] * num_tokens, False)


@pytest.fixture
def llm() -> FakeLlm:
    fake = FakeLlm()
    meter_requests(fake)
    return fake


@pytest.fixture
def usage() -> RequestUsage:
    return RequestUsage()


@pytest.fixture(autouse=True)
def being_served(usage: RequestUsage) -> Any:
    token = current_usage.set(usage)
    yield
    current_usage.reset(token)


async def test_one_answer(llm: FakeLlm, usage: RequestUsage) -> None:
    state = await llm.add("r")
    step(state, cached=8)
    step(state, num_tokens=3)
    llm.output_processor.request_states.clear()  # vLLM has let go of it
    assert usage.settle() == TokenCounts(prompt=10, cached=8, output=4)
    assert llm.added == ["r"]


async def test_answers_to_one_prompt_count_it_once(llm: FakeLlm, usage: RequestUsage) -> None:
    for index in range(3):
        step(await llm.add(f"{index}_r", request_index=index), num_tokens=5, cached=8 * index)
    assert usage.settle() == TokenCounts(prompt=10, cached=0, output=15)


async def test_prompts_add_up(llm: FakeLlm, usage: RequestUsage) -> None:
    step(await llm.add("0-r", prompt_len=10), cached=8)
    step(await llm.add("1-r", prompt_len=20), cached=16)
    assert usage.settle() == TokenCounts(prompt=30, cached=24, output=2)


async def test_a_prompt_that_was_left_before_it_was_computed_counts_nothing(
    llm: FakeLlm, usage: RequestUsage
) -> None:
    await llm.add("r")
    assert usage.settle() == TokenCounts()


async def test_an_embedding_has_a_prompt_only(llm: FakeLlm, usage: RequestUsage) -> None:
    step(await llm.add("r", detokenizer=None), cached=0)
    assert usage.settle() == TokenCounts(prompt=10)


async def test_nobody_pays_for_what_no_request_asked(llm: FakeLlm, usage: RequestUsage) -> None:
    current_usage.set(None)
    step(await llm.add("probe"))
    assert usage.settle() == TokenCounts()
    assert llm.added == ["probe"]


async def test_what_another_replica_has_generated_is_not_counted_again(
    llm: FakeLlm, usage: RequestUsage
) -> None:
    journal_generations(llm, lambda *_: None, RuntimeError)
    told = current_journal.set(Journal(records_of([100, 101], [102])))
    try:
        step(await llm.add("r"), num_tokens=4)
    finally:
        current_journal.reset(told)
    assert usage.settle() == TokenCounts(output=4)


def records_of(*outputs: list[int]) -> bytes:
    journal, reader = Journal(), JournalReader(max_bytes=1000)
    assert journal.begin(can_resume=True)
    for token_ids in outputs:
        journal.note(Output(token_ids, "text"))
        reader.feed(journal.frame(b"x"))
    return bytes(reader.records)
