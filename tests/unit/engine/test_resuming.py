"""vLLM is handed the rest of an answer, and its application the whole of it."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from serving.engine.resuming import journal_generations
from serving.protocol.journal import Journal, JournalReader, Output, current_journal

PROMPT = {"type": "token", "prompt_token_ids": [1, 2, 3]}


class DeadError(Exception):
    pass


@dataclass
class Params:
    """Those of vLLM's that matter here."""

    max_tokens: int = 10
    min_tokens: int = 4
    n: int = 1
    temperature: float = 0.0
    num_logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_outputs: Any = None
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.1
    bad_words: list[str] = field(default_factory=list)
    thinking_token_budget: int | None = None
    repetition_detection: Any = None
    watermarking: bool | None = None
    output_kind: Any = field(default_factory=lambda: SimpleNamespace(name="DELTA"))

    def clone(self) -> Params:
        return copy.copy(self)


class Detokenizer:
    def __init__(self) -> None:
        self.told: list[int] = []

    def update(self, token_ids: list[int], stop_terminated: bool) -> None:
        assert not stop_terminated
        self.told += token_ids

    def num_output_tokens(self) -> int:
        return len(self.told)

    def get_next_output_text(self, finished: bool, delta: bool) -> str:
        assert (finished, delta) == (False, True)
        return "said already"


class FakeLlm:
    """Generates the tokens 100, 101, … behind whatever it is given, as vLLM would be asked to."""

    def __init__(self, *, dies_after: int | None = None) -> None:
        self.engine_core = SimpleNamespace(add_request_async=self._add)
        self.detokenizer = Detokenizer()
        self.state = SimpleNamespace(detokenizer=self.detokenizer, sent_tokens_offset=0)
        self.output_processor = SimpleNamespace(request_states={"r": self.state})
        self.vllm_config = SimpleNamespace(watermark_config=None)
        self.added: Any = None
        self._dies_after = dies_after

    async def _add(self, request: Any) -> None:
        self.added = request

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        ids = prompt["prompt_token_ids"]
        request = SimpleNamespace(
            request_id=request_id, prompt_token_ids=ids, sampling_params=params
        )
        await self.engine_core.add_request_async(request)
        first = len(self.added.prompt_token_ids) - len(ids)
        for number in range(self.added.sampling_params.max_tokens):
            if number == self._dies_after:
                raise DeadError
            token = 100 + first + number
            is_last = number == self.added.sampling_params.max_tokens - 1
            yield output([token], "length" if is_last else None, cached=16)


def output(token_ids: list[int], finish_reason: str | None, *, cached: int | None) -> Any:
    answer = SimpleNamespace(
        token_ids=token_ids,
        text=f"<{token_ids}>",
        finish_reason=finish_reason,
        stop_reason=None,
    )
    return SimpleNamespace(
        outputs=[answer], num_cached_tokens=cached, num_cache_creation_tokens=None
    )


def remade(_request_id: str, prompt: Any, noted: Output) -> Any:
    assert prompt == PROMPT
    return output(list(noted.token_ids), noted.finish_reason, cached=noted.num_cached_tokens)


async def run(
    llm: FakeLlm, told: bytes = b"", params: Params | None = None
) -> tuple[list[int], Journal, bytes]:
    """The tokens that the application sees, and the records of the rest."""
    journal = Journal(told)
    reader = JournalReader(max_bytes=10**6)
    journal_generations(llm, remade, DeadError)
    context = current_journal.set(journal)
    tokens: list[int] = []
    try:
        async for given in llm.generate(PROMPT, params or Params(), "r"):
            tokens += given.outputs[0].token_ids
            reader.feed(journal.frame(b"x"))
    except DeadError:
        pass
    finally:
        current_journal.reset(context)
    return tokens, journal, bytes(reader.records)


async def test_the_rest_is_generated_behind_the_tokens_so_far() -> None:
    whole, _, _ = await run(FakeLlm())
    _, broken, records = await run(FakeLlm(dies_after=4))
    assert broken.is_lost

    second = FakeLlm()
    seen, journal, _ = await run(second, records)

    assert seen == whole
    assert not journal.is_lost
    assert second.added.prompt_token_ids == [1, 2, 3, 100, 101, 102, 103]
    assert second.added.sampling_params.max_tokens == 6
    assert second.added.sampling_params.min_tokens == 0
    assert second.detokenizer.told == [100, 101, 102, 103]
    assert second.state.sent_tokens_offset == 4
    assert PROMPT["prompt_token_ids"] == [1, 2, 3]


async def test_a_complete_answer_asks_the_engine_for_nothing() -> None:
    whole, _, records = await run(FakeLlm())
    second = FakeLlm()
    seen, _, _ = await run(second, records)
    assert seen == whole
    assert second.added is None


@pytest.mark.parametrize(
    "params",
    [
        {"n": 2},
        {"num_logprobs": 0},
        {"prompt_logprobs": 1},
        {"structured_outputs": object()},
        {"seed": 1, "temperature": 0.5},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"bad_words": ["x"]},
        {"thinking_token_budget": 5},
        {"repetition_detection": object()},
        {"output_kind": SimpleNamespace(name="FINAL_ONLY")},
    ],
)
async def test_what_depends_on_more_than_tokens_is_not_continued(params: dict[str, Any]) -> None:
    _, journal, records = await run(FakeLlm(), params=Params(**params))
    assert not records
    assert journal.frame(b"x")[4:8] == b"\xff\xff\xff\xff"


@pytest.mark.parametrize("params", [{"seed": 1}, {"temperature": 0.7}, {"repetition_penalty": 1.3}])
async def test_what_depends_on_tokens_alone_is_continued(params: dict[str, Any]) -> None:
    _, _, records = await run(FakeLlm(), params=Params(**params))
    assert records


async def test_without_a_journal_nothing_changes() -> None:
    llm = FakeLlm()
    journal_generations(llm, remade, DeadError)
    given = [each async for each in llm.generate(PROMPT, Params(), "r")]
    assert len(given) == 10
    assert llm.detokenizer.told == []
