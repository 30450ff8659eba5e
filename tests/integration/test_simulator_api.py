"""The simulated engine's HTTP interface, through the official SDKs and over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from serving.core.types import ModelId
from serving.gateway.openapi import published
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings, TimingSettings
from serving.simulator.launch import SimulatedEngine, build_engine

MODEL = "sim"
ADAPTER = "sim-legal"
MAX_MODEL_LEN = 512
QUESTION = "Tell me of the river, please, and of the sea, and of the ships on it."
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]


def settings(step_s: float) -> ModelSettings:
    timing = TimingSettings(step_s=step_s, overhead_s=0.0005)
    return ModelSettings(
        simulator=SimulatorSettings(timing=timing, kv_blocks=400, answer_tokens=40),
        engine=EngineSettings(max_model_len=MAX_MODEL_LEN),
        adapters={ADAPTER: Path("/adapters/legal")},
    )


class Server:
    """uvicorn in a thread, with the engine on the same event loop, as in a replica."""

    def __init__(self, *, step_s: float = 0.001) -> None:
        self.settings = settings(step_s)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.engine: SimulatedEngine
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        self.engine = build_engine(
            ModelId(MODEL),
            self.settings,
            None,
            registry=CollectorRegistry(),
            clock=time.monotonic,
        )
        self.engine.loop.start()
        self._server = uvicorn.Server(
            uvicorn.Config(self.engine.app, log_config=None, lifespan="on")
        )
        self._ready.set()
        await self._server.serve(sockets=[self.socket])
        self.engine.shutdown()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=10) as client:
        yield client


@pytest.fixture(scope="module")
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def test_chat(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streams_the_same_answer(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(model=MODEL, messages=MESSAGES)
    stream = sdk.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    assert len(chunks) == whole.usage.completion_tokens + 2


def test_several_choices(sdk: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "n": 3, "max_tokens": 20}
    whole = sdk.chat.completions.create(**options)
    texts = ["", "", ""]
    for chunk in sdk.chat.completions.create(**options, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3


def test_length_options(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_completion_tokens=150,
        extra_body={"ignore_eos": True, "min_tokens": 10},
    )
    assert answer.usage.completion_tokens == 150
    assert answer.choices[0].finish_reason == "length"


def test_stop_strings(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=30, extra_body={"ignore_eos": True}
    )
    text = whole.choices[0].message.content or ""
    stop = text.split()[6]
    options: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "stop": [f" {stop}"]}
    stopped = sdk.chat.completions.create(**options, extra_body={"ignore_eos": True})
    assert stopped.choices[0].message.content == text[: text.index(f" {stop}")]
    chunks = sdk.chat.completions.create(**options, stream=True, extra_body={"ignore_eos": True})
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == stopped.choices[0].message.content


def test_the_next_turn_hits_the_answer_before(sdk: openai.OpenAI) -> None:
    first: list[Any] = [{"role": "user", "content": "How long is the longest river of the north?"}]
    answer = sdk.chat.completions.create(
        model=MODEL, messages=first, max_tokens=60, extra_body={"min_tokens": 30}
    )
    again = {"role": "assistant", "content": answer.choices[0].message.content}
    second = sdk.chat.completions.create(
        model=MODEL, messages=[*first, again, *MESSAGES], max_tokens=1
    )
    length = answer.usage.total_tokens - 1
    assert second.usage.prompt_tokens_details.cached_tokens == length // 16 * 16


def test_cache_salts_and_adapters_do_not_share_prefixes(sdk: openai.OpenAI) -> None:
    def cached(model: str = MODEL, **extra: str) -> int:
        answer = sdk.completions.create(
            model=model, prompt="word " * 64, max_tokens=1, extra_body=extra
        )
        return answer.usage.prompt_tokens_details.cached_tokens

    assert (cached(), cached()) == (0, 64)
    assert (cached(cache_salt="a"), cached(cache_salt="a")) == (0, 64)
    assert (cached(ADAPTER), cached(ADAPTER)) == (0, 64)


def test_completions(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(
        model=MODEL,
        prompt=["The river", "The sea"],
        max_tokens=8,
        echo=True,
        extra_body={"ignore_eos": True},
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].text.startswith("The river ")
    assert answer.choices[1].text.startswith("The sea ")
    assert answer.usage.completion_tokens == 16


def test_completions_of_token_ids_stream(sdk: openai.OpenAI) -> None:
    chunks = list(
        sdk.completions.create(
            model=MODEL,
            prompt=[100, 101, 102],
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
    )
    assert chunks[-1].usage.prompt_tokens == 3
    assert chunks[-1].usage.completion_tokens == 8
    assert all(len(chunk.choices[0].token_ids) == 1 for chunk in chunks[:-1])  # type: ignore[attr-defined]


def test_responses(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.create(model=MODEL, input="What is a river?", instructions="Be short.")
    assert answer.status == "completed"
    assert answer.output_text
    events = list(
        sdk.responses.create(
            model=MODEL, input="What is a river?", instructions="Be short.", stream=True
        )
    )
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == answer.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answer.output_text


def test_a_conversation_of_responses(sdk: openai.OpenAI) -> None:
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "nothing"},
    ]
    answer = sdk.responses.create(model=MODEL, input=items, max_output_tokens=3)
    assert answer.usage.output_tokens <= 3


def test_messages(claude: anthropic.Anthropic) -> None:
    options: dict[str, Any] = {"model": MODEL, "max_tokens": 12, "messages": MESSAGES}
    answer = claude.messages.create(**options, system="Speak of water.")
    assert answer.stop_reason in ("max_tokens", "end_turn")
    assert answer.usage.output_tokens <= 12
    with claude.messages.stream(**options, system="Speak of water.") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == answer.content[0].text
    assert final.stop_reason == answer.stop_reason
    assert final.usage.output_tokens == answer.usage.output_tokens


def test_count_tokens_agrees_with_usage(claude: anthropic.Anthropic, sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=1)
    counted = claude.messages.count_tokens(model=MODEL, messages=MESSAGES)
    assert counted.input_tokens == answer.usage.prompt_tokens


def test_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == [MODEL, ADAPTER]


def test_an_adapter_answers_by_its_name(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model=ADAPTER, messages=MESSAGES, max_tokens=2)
    assert answer.model == ADAPTER


def test_tokens_round_trip(http: httpx.Client) -> None:
    text = "Ça souffle en galerne: vent d'ouest à nord-ouest 🌊."
    tokens = http.post("/tokenize", json={"model": MODEL, "prompt": text}).json()
    assert tokens["count"] == len(tokens["tokens"])
    assert tokens["max_model_len"] == MAX_MODEL_LEN
    answer = http.post("/detokenize", json={"tokens": tokens["tokens"]})
    assert answer.json() == {"prompt": text}


def test_request_ids_name_the_answer(http: httpx.Client) -> None:
    for path, name in (("/v1/chat/completions", "chatcmpl-mine"), ("/v1/completions", "cmpl-mine")):
        body = {"messages": MESSAGES, "prompt": "a", "max_tokens": 1}
        assert http.post(path, json=body, headers={"x-request-id": "mine"}).json()["id"] == name


def test_equal_request_ids_at_the_same_time_are_told_apart(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": 50, "stream": True, "ignore_eos": True}
    options: dict[str, Any] = {"json": body, "headers": {"x-request-id": "twin"}}
    with (
        http.stream("POST", "/v1/chat/completions", **options) as first,
        http.stream("POST", "/v1/chat/completions", **options) as second,
    ):
        assert first.read().endswith(b"[DONE]\n\n")
        assert second.read().endswith(b"[DONE]\n\n")


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_aborts(stream: bool) -> None:
    server = Server(step_s=0.05)
    body = {"messages": MESSAGES, "max_tokens": 400, "stream": stream, "ignore_eos": True}
    try:
        with (
            pytest.raises(httpx.ReadTimeout),
            httpx.stream("POST", server.url + CHAT, json=body, timeout=0.03) as answer,
        ):
            answer.read()
        deadline = time.monotonic() + 5
        while not server.engine.loop.is_idle and time.monotonic() < deadline:
            time.sleep(0.005)
        load = server.engine.load()
        assert (load.running, load.waiting, load.kv_blocks_used) == (0, 0, 0)
        assert server.engine.loop.parts.metrics.num_generation_tokens < 100
    finally:
        server.stop()


def test_plain_endpoints(http: httpx.Client) -> None:
    assert http.get("/health").content == b""
    assert http.post("/ping").status_code == 200
    assert http.get("/version").json() == {"version": "0.32.0"}
    metrics = http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "vllm:num_requests_running" in metrics.text


def test_the_gateway_can_publish_its_description(http: httpx.Client) -> None:
    document = published(http.get("/openapi.json").json(), version="1")
    assert "ChatBody" in document["components"]["schemas"]
    assert "post" in document["paths"]["/v1/messages"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/score", "/v1/rerank", "/pooling"])
def test_pooling_is_not_there(http: httpx.Client, path: str) -> None:
    answer = http.post(path, json={"input": "a"})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


def test_methods_are_checked(http: httpx.Client) -> None:
    answer = http.get("/v1/completions")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})


CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
LONG = "wave " * 600


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param", "message"),
    [
        (CHAT, {}, 400, "Bad Request", "body.messages", "1 validation error:\n  {'type"),
        (CHAT, {"messages": "hi"}, 400, "Bad Request", "body.messages", "valid list"),
        (CHAT, {"messages": [{}]}, 400, "Bad Request", "body.messages.0.role", "Field required"),
        (CHAT, {"messages": MESSAGES, "model": "nope"}, 404, "NotFoundError", "model",
         "The model `nope` does not exist. Valid aliases: sim."),
        (CHAT, {"messages": MESSAGES, "max_tokens": 0}, 400, "BadRequestError", "max_tokens",
         "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"),
        (CHAT, {"messages": MESSAGES, "max_tokens": "many"}, 400, "Bad Request", "body.max_tokens",
         "valid integer"),
        (CHAT, {"messages": MESSAGES, "max_tokens": 513}, 400, "BadRequestError", "max_tokens",
         "max_tokens=513 cannot be greater than max_model_len=512. Please request fewer output"),
        (CHAT, {"messages": MESSAGES, "temperature": 2.5}, 400, "BadRequestError", "temperature",
         "temperature must be in [0, 2], got 2.5. (parameter=temperature, value=2.5)"),
        (CHAT, {"messages": MESSAGES, "temperature": -1}, 400, "BadRequestError", "temperature",
         "temperature must be non-negative, got -1.0."),
        (CHAT, {"messages": MESSAGES, "top_p": 0}, 400, "BadRequestError", "top_p",
         "top_p must be in (0, 1], got 0.0."),
        (CHAT, {"messages": MESSAGES, "n": 0}, 400, "BadRequestError", None,
         "n must be at least 1, got 0."),
        (CHAT, {"messages": MESSAGES, "n": 2, "temperature": 0}, 400, "BadRequestError", None,
         "n must be 1 when using greedy sampling, got 2."),
        (CHAT, {"messages": MESSAGES, "stop": ["a"] * 5}, 400, "Bad Request", "body.stop", "stop"),
        (CHAT, {"messages": MESSAGES, "stop": ""}, 400, "BadRequestError", None,
         "stop cannot contain an empty string."),
        (CHAT, {"messages": MESSAGES, "stream_options": {"include_usage": True}}, 400,
         "BadRequestError", "stream_options", "Stream options can only be defined when"),
        (CHAT, {"messages": MESSAGES, "cache_salt": "a/b"}, 400, "BadRequestError", "cache_salt",
         "Parameter 'cache_salt' must be at most 128 characters"),
        (CHAT, {"messages": MESSAGES, "tools": []}, 400, "BadRequestError", "tools",
         "`tools` must not be an empty array."),
        (CHAT, {"messages": MESSAGES, "tools": [{"function": {"name": "x"}}]}, 400,
         "BadRequestError", None, '"auto" tool choice requires --enable-auto-tool-choice'),
        (CHAT, {"messages": MESSAGES, "chat_template": "x"}, 400, "BadRequestError", None,
         "Chat template is passed with request"),
        (CHAT, {"messages": MESSAGES, "logprobs": True}, 400, "BadRequestError", "logprobs",
         "a simulated engine has no log probabilities"),
        (CHAT, {"messages": [{"role": "user", "content": LONG}]}, 400, "BadRequestError",
         "input_tokens", "This model's maximum context length is 512 tokens. However, your prompt "
         "contains at least 513 input tokens"),
        (TEXT, {"prompt": ""}, 400, "BadRequestError", "prompt",
         "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"),
        (TEXT, {"prompt": [[]]}, 400, "BadRequestError", None, "decoder prompt cannot be empty"),
        (TEXT, {"prompt": [10**9]}, 400, "BadRequestError", None, "is out of vocabulary"),
        (TEXT, {"prompt": "a" * 9999}, 400, "BadRequestError", "input_text",
         "contains 9999 characters (more than 3584 characters, which is the upper bound for 512"),
        (TEXT, {"prompt": "a", "suffix": "b"}, 400, "BadRequestError", "suffix", "suffix is only"),
        ("/v1/responses", {}, 400, "Bad Request", "body.input", "Field required"),
        ("/v1/responses", {"input": "a", "previous_response_id": "r"}, 404,
         "invalid_request_error", "response_id", "Response with id 'r' not found."),
        ("/detokenize", {"tokens": [-1]}, 400, "Bad Request", "body.tokens.0", "greater than"),
        ("/detokenize", {"tokens": [10**9]}, 400, "BadRequestError", None, "out of vocabulary"),
    ],
)  # fmt: skip
def test_refusals(
    http: httpx.Client,
    path: str,
    body: dict[str, Any],
    status: int,
    kind: str,
    param: str | None,
    message: str,
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (kind, param, status)
    assert message in error["message"]


@pytest.mark.parametrize(
    ("raw", "content_type", "message"),
    [
        (b"{", "application/json", "'msg': 'JSON decode error'"),
        (b"", "application/json", "'msg': 'Field required'"),
        (b"[1]", "application/json", "valid dictionary"),
        (b'{"messages": "\xff"}', "application/json", "error parsing the body"),
        (b"{}", "text/plain", "Only 'application/json' is allowed"),
    ],
)
def test_bodies_that_are_no_request(
    http: httpx.Client, raw: bytes, content_type: str, message: str
) -> None:
    answer = http.post(CHAT, content=raw, headers={"content-type": content_type})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "Bad Request"
    assert message in answer.json()["error"]["message"]


def test_anthropic_refusals(http: httpx.Client) -> None:
    body = {"model": "nope", "max_tokens": 1, "messages": MESSAGES}
    answer = http.post("/v1/messages", json=body)
    assert answer.status_code == 404
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "NotFoundError"
    answer = http.post("/v1/messages", json={**body, "max_tokens": 0})
    assert answer.status_code == 400
    assert "max_tokens must be positive" in answer.json()["error"]["message"]


def test_what_the_engine_refuses_ends_up_in_the_stream(http: httpx.Client) -> None:
    answer = http.post(TEXT, json={"prompt": [10**9], "stream": True})
    assert answer.status_code == 200
    first, done, _ = answer.text.split("\n\n")
    assert done == "data: [DONE]"
    assert json.loads(first.removeprefix("data: "))["error"]["code"] == 400


LAUNCH = """
import asyncio, sys, time
from serving.core.start_record import StartRecord
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings
from serving.simulator.launch import launch_simulator

async def main():
    settings = ModelSettings(simulator=SimulatorSettings(start_s=0.01))
    start = StartRecord(clock=time.monotonic, wall_clock=time.time)
    engine = await launch_simulator("sim", settings, None, b"secret", start)
    await engine.check_health()
    print(engine.description)
    print(start.seconds)
    engine.shutdown()

asyncio.run(main())
print(sorted({"vllm", "torch", "transformers", "ray"} & set(sys.modules)))
"""


def test_a_replica_starts_without_heavy_libraries() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH], capture_output=True, text=True, timeout=60, check=True
    )
    description, phases, heavy = done.stdout.splitlines()
    assert "kv_blocks_total=4096" in description
    assert "'load'" in phases
    assert heavy == "[]"
