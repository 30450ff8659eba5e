"""The official SDKs against the endpoint, as people use them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import anthropic
import httpx
import numpy as np
import openai
import pytest

from e2e.harness import EMBEDDER, MODEL, Platform, chat, error_of
from e2e.lora import ADAPTER

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]
NUM_PARALLEL = 16


@pytest.fixture(scope="module")
def sdk(platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{platform.endpoint}/v1", api_key=platform.key, max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="module")
def claude(platform: Platform) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=platform.endpoint, api_key=platform.key, max_retries=0
    ) as client:
        yield client


def test_chat_knows_the_capital_of_france(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0


def test_chat_streams_with_usage(sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    with stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    assert len([chunk for chunk in chunks if chunk.choices]) > 3
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_completions(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0
    )
    assert "Paris" in answer.choices[0].text
    assert answer.usage.completion_tokens == 4


def test_completions_stream(sdk: openai.OpenAI) -> None:
    with sdk.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0, stream=True
    ) as stream:
        assert "Paris" in "".join(chunk.choices[0].text for chunk in stream)


def test_responses(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=MODEL, input=QUESTION, temperature=0)
    assert "Paris" in answer.output_text
    assert answer.status == "completed"


def test_responses_stream(sdk: openai.OpenAI) -> None:
    with sdk.responses.create(model=MODEL, input=QUESTION, temperature=0, stream=True) as stream:
        events = list(stream)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert "Paris" in text
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"


def test_models(sdk: openai.OpenAI) -> None:
    listed = sdk.models.list().data
    assert [model.id for model in listed] == [MODEL, ADAPTER, EMBEDDER]
    assert sdk.models.retrieve(MODEL) == listed[0]


def test_wrong_key_is_an_authentication_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        sdk.with_options(api_key="nonsense").models.list()
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id


def test_unknown_model_is_a_not_found_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model="dema", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "did you mean `demo`" in caught.value.message


def test_unknown_model_cannot_be_retrieved(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("nope")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_long_prompt_is_a_bad_request_error(sdk: openai.OpenAI, stream: bool) -> None:
    messages = [{"role": "user", "content": "wave " * 5000}]
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model=MODEL, messages=messages, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    assert "4096" in caught.value.message


async def test_parallel_streams_all_complete(platform: Platform) -> None:
    base_url = f"{platform.endpoint}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=platform.key, max_retries=0) as sdk:

        async def count_tokens(number: int) -> int:
            stream = await sdk.chat.completions.create(
                **chat(f"Say the number {number}.", max_tokens=24),
                extra_body={"ignore_eos": True},
                stream=True,
                stream_options={"include_usage": True},
            )
            async with stream:
                chunks = [chunk async for chunk in stream]
            assert chunks[-2].choices[0].finish_reason == "length"
            return chunks[-1].usage.completion_tokens

        counts = await asyncio.gather(*map(count_tokens, range(NUM_PARALLEL)))
    assert counts == [24] * NUM_PARALLEL


def test_messages(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(
        model=MODEL, max_tokens=30, messages=MESSAGES, extra_body={"temperature": 0}
    )
    assert "Paris" in answer.content[0].text
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens > 0
    assert answer._request_id


def test_anthropics_models(claude: anthropic.Anthropic, sdk: openai.OpenAI) -> None:
    assert [row.id for row in claude.models.list()] == [row.id for row in sdk.models.list()]


def test_an_earlier_response_is_not_found(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(model=MODEL, input=QUESTION, max_output_tokens=5, store=True)
    with pytest.raises(openai.NotFoundError) as refused:
        sdk.responses.create(model=MODEL, input=QUESTION, previous_response_id=first.id)
    assert refused.value.code == "previous_response_not_found"


def test_tools_need_a_tool_parser(sdk: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[tool])
    assert refused.value.code == "tool_parser_missing"


def test_messages_stream(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(
        model=MODEL, max_tokens=30, messages=MESSAGES, extra_body={"temperature": 0}
    ) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert "Paris" in text
    assert final.stop_reason == "end_turn"


def test_messages_count_tokens(claude: anthropic.Anthropic) -> None:
    assert claude.messages.count_tokens(model=MODEL, messages=MESSAGES).input_tokens > 5


def test_messages_error_classes(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(model="nope", max_tokens=5, messages=MESSAGES)
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert caught.value.request_id
    with pytest.raises(anthropic.AuthenticationError):
        claude.with_options(api_key="nonsense").models.list()


def test_messages_long_prompt(claude: anthropic.Anthropic) -> None:
    messages = [{"role": "user", "content": "wave " * 5000}]
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(model=MODEL, max_tokens=5, messages=messages)
    assert caught.value.body["error"]["code"] == "context_length_exceeded"


def test_tokens_round_trip(client: httpx.Client) -> None:
    text = "Ça souffle en galerne: vent d'ouest à nord-ouest 🌊."
    tokens = client.post("/tokenize", json={"model": MODEL, "prompt": text}).json()["tokens"]
    answer = client.post("/detokenize", json={"model": MODEL, "tokens": tokens})
    assert answer.json()["prompt"] == text


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/score", "/v1/rerank", "/pooling"])
def test_pooling_is_not_for_a_generating_model(client: httpx.Client, path: str) -> None:
    body = {"model": MODEL, "input": "a", "text_1": "a", "text_2": "b", "query": "a"}
    error_of(client.post(path, json=body), 404, "unsupported_by_model")


def test_embeddings(sdk: openai.OpenAI) -> None:
    """Of a pooling model behind the same endpoint; like texts have like vectors."""
    texts = ["The sea is calm today.", "Today the sea is calm.", "Invoice 4711 is overdue."]
    rows = sdk.embeddings.create(model=EMBEDDER, input=texts).data
    sea, calm_sea, invoice = (np.array(row.embedding) for row in rows)
    assert sea.shape == (576,)
    assert np.linalg.norm(sea) == pytest.approx(1, abs=1e-2)
    assert sea @ calm_sea > sea @ invoice


def test_score(client: httpx.Client) -> None:
    body = {"model": EMBEDDER, "text_1": "the sea", "text_2": ["the sea", "an invoice"]}
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 200, answer.text
    same, other = (row["score"] for row in answer.json()["data"])
    assert same > other


def test_generating_is_not_for_a_pooling_model(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        sdk.chat.completions.create(model=EMBEDDER, messages=MESSAGES)
    assert refused.value.code == "unsupported_by_model"
