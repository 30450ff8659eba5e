"""What a simulated engine says is what vLLM's own code would have said.

The same tokens go through vLLM's response generators and the simulator's replies: every event and
every whole answer must be equal. The same chats and prompts go through vLLM's renderer and the
simulator's tokenizer: every token id must be. And each metric must be one that vLLM registers.

vLLM warns on import and changes process-wide state, so pytest runs this file as a program.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from serving.rendering.conversations import chat_of, chat_of_messages, chat_of_responses
from serving.rendering.messages_body import MessagesBody
from serving.rendering.model_tokenizer import ModelTokenizer
from serving.rendering.openai_bodies import ChatBody, StreamOptions
from serving.rendering.refusal import RequestRefused
from serving.rendering.responses_body import ResponsesBody
from serving.rendering.vocabulary import WORDS as ALL_WORDS
from serving.simulator.generation import CacheUse, Delta, TokenStream
from serving.simulator.kv_cache import KvCacheConfig
from serving.simulator.limits import OutputLimit, check_output, sampling_of
from serving.simulator.messages_reply import MessagesReply
from serving.simulator.metrics import EngineMetrics
from serving.simulator.metrics_collector import MetricsCollector
from serving.simulator.openai_reply import ChatShapes, ChunkOptions, CompletionShapes, OpenAIReply
from serving.simulator.reply import Envelope, Reply
from serving.simulator.responses_reply import ResponsesReply
from serving.simulator.scheduler import Scheduler, SchedulerConfig

MAX_MODEL_LEN = 512
CREATED = 1_790_000_000
FINGERPRINT = "vllm-0.32.0-simulated"
ENVELOPE = Envelope("the-id", "sim", CREATED, FINGERPRINT)
NUM_PROMPT, NUM_CACHED, NUM_CREATED = 50, 16, 32
WORDS = [("The", 11), (" sea", 12), (" is\n", 13), ("", 2)]
ENDINGS: dict[str, tuple[str, int | str | None]] = {
    "stop": ("stop", None),
    "length": ("length", None),
    "string": ("stop", "calm"),
    "token": ("stop", 13),
}
USAGES: dict[str, dict[str, bool] | None] = {
    "none": None,
    "final": {"include_usage": True},
    "continuous": {"include_usage": True, "continuous_usage_stats": True},
}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Where does the river end?"}]},
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": "the sea  "},
            {"role": "user", "content": "Ça, vraiment? 🌊", "name": "ann"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "Look."},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"at": "sea"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "water"},
        ],
        "tools": TOOLS,
        "tool_choice": "none",
    },
    {
        "messages": [
            {"role": "user", "content": "Go on."},
            {"role": "assistant", "content": "the long river "},
        ],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    {
        "messages": [{"role": "user", "content": "x"}],
        "add_special_tokens": True,
        "chat_template_kwargs": {"mood": "calm"},
    },
]
PROMPTS: list[dict[str, Any]] = [
    {"prompt": "Where does the river end?"},
    {"prompt": "no mark", "add_special_tokens": False},
    {"prompt": [5, 6, 7]},
    {"prompt": ["a", "b c"]},
]
RESPONSES: list[dict[str, Any]] = [
    {"input": "Where to?", "instructions": "Be short."},
    {
        "input": [
            {"role": "user", "content": "Hello"},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "the sea"}],
            },
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": '{"at": "it"}'},
            {"type": "function_call_output", "call_id": "c", "output": "water"},
            {"role": "user", "content": [{"type": "input_text", "text": "And?"}]},
        ],
        "tools": [{"type": "function", "name": "look", "parameters": {}, "strict": True}],
    },
]
ANTHROPIC: list[dict[str, Any]] = [
    {
        "model": "sim",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "Be short."}],
        "tools": [{"name": "look", "description": "Look.", "input_schema": {"properties": {}}}],
        "tool_choice": {"type": "none"},
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": [{"type": "text", "text": "the sea"}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": "water"},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
    }
]
REFUSED: list[dict[str, Any]] = [
    {"temperature": 2.5}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -2},
    {"min_p": 2}, {"presence_penalty": 3}, {"frequency_penalty": -3}, {"repetition_penalty": 0},
    {"n": 0}, {"n": 20_000}, {"n": 2, "temperature": 0}, {"max_tokens": 0}, {"max_tokens": -1},
    {"max_tokens": 513}, {"max_completion_tokens": 513}, {"min_tokens": -1}, {"stop": ""},
    {"min_tokens": 9, "max_tokens": 5}, {"stream_options": {"include_usage": True}},
    {"cache_salt": ""}, {"cache_salt": "a@b"}, {"tools": []}, {"tool_choice": "required"},
    {"top_logprobs": 2}, {"top_logprobs": -2, "logprobs": True}, {"top_logprobs": "two"},
    {"prompt_logprobs": -3}, {"continue_final_message": True, "add_generation_prompt": True},
]  # fmt: skip
"""Chat requests with a field that vLLM refuses."""
TEMPLATES = {
    "texts": (
        "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n"
        "{% if message.name %}{{ message.name }}: {% endif %}"
        "{% if message.content is string %}{{ message.content }}{% endif %}"
        "{% for call in message.tool_calls or [] %}{{ call.function.arguments | tojson }}"
        "{% endfor %}</s>\n{% endfor %}"
        "{% if tools %}{{ tools | tojson }}{% endif %}{{ mood }}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "parts": (
        "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>"
        "{% if message.content is string %}{{ message.content }}{% else %}"
        "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
        "{% endfor %}{% endif %}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
}

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")


def write_model(folder: Path, template: str) -> None:
    """A model folder without weights, whose tokenizer puts a mark before each prompt."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ALL_WORDS.split()
    tokenizer.train_from_iterator(
        [f" {word} {word.capitalize()}\n{word.capitalize()}" for word in words], trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    files: dict[str, Any] = {
        "tokenizer_config.json": {**special, "tokenizer_class": "PreTrainedTokenizerFast"},
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "vocab_size": tokenizer.get_vocab_size(),
            "max_position_embeddings": MAX_MODEL_LEN,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "dtype": "float32",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(template)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name, template in TEMPLATES.items():
        write_model(root / name, template)
    return {name: root / name for name in TEMPLATES}


@pytest.fixture(scope="module")
def vllm(folders: dict[str, Path]) -> dict[str, Any]:
    """What vLLM says to all of it."""
    done = subprocess.run(
        [sys.executable, __file__, json.dumps({k: str(v) for k, v in folders.items()})],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def deltas(ending: str) -> list[Delta]:
    reason, stop_reason = ENDINGS[ending]
    last = len(WORDS) - 1
    return [
        Delta(0, text, token_id, reason if i == last else None, stop_reason if i == last else None)
        for i, (text, token_id) in enumerate(WORDS)
    ]


def token_stream() -> TokenStream:
    stream = TokenStream(["0"], [NUM_PROMPT], 1)
    stream.cache_uses = [CacheUse(NUM_CACHED, NUM_CREATED)]
    return stream


def events(raw: Iterable[str]) -> list[Any]:
    """Server-sent events as (name, content)."""
    found = []
    for block in "".join(raw).split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        if data := lines.get("data"):
            content = data if data == "[DONE]" else json.loads(data)
            found.append([lines.get("event"), content])
    return found


def spoken(reply: Reply, ending: str) -> list[Any]:
    parts = [reply.opening(), *(reply.chunks([delta]) for delta in deltas(ending)), reply.closing()]
    return events(part.decode() for part in parts)


def without_random_ids(value: Any) -> Any:
    """Message ids are random in vLLM."""
    if isinstance(value, dict):
        return {
            key: "msg"
            if isinstance(item, str) and item.startswith("msg_")
            else without_random_ids(item)
            for key, item in value.items()
        }
    return [without_random_ids(item) for item in value] if isinstance(value, list) else value


@needs_vllm
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_openai_events(vllm: dict[str, Any], kind: str, usage: str, ending: str) -> None:
    options = USAGES[usage] and StreamOptions(**USAGES[usage])
    for token_ids in (False, True):
        reply = openai_reply(kind, ChunkOptions.of(options or None, token_ids=token_ids))
        expected = vllm[f"{kind} {usage} {ending} {token_ids}"]
        if token_ids:
            expected = without_prompt_ids(expected)
        assert spoken(reply, ending) == expected


@needs_vllm
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_whole_openai_answers(vllm: dict[str, Any], kind: str, ending: str) -> None:
    whole = openai_reply(kind, ChunkOptions()).whole(deltas(ending))
    assert whole == vllm[f"{kind} whole {ending}"]


@needs_vllm
@pytest.mark.parametrize("ending", ["stop", "length", "string"])
def test_messages(vllm: dict[str, Any], ending: str) -> None:
    assert spoken(MessagesReply(ENVELOPE, token_stream()), ending) == vllm[f"messages {ending}"]
    whole = MessagesReply(ENVELOPE, token_stream()).whole(deltas(ending))
    assert whole == vllm[f"messages whole {ending}"]


@needs_vllm
@pytest.mark.parametrize("ending", ["stop", "length"])
def test_responses(vllm: dict[str, Any], ending: str) -> None:
    body = ResponsesBody(input="a", tool_choice="none")
    reply = ResponsesReply(ENVELOPE, token_stream(), body, max_tokens=77)
    assert without_random_ids(spoken(reply, ending)) == without_random_ids(
        vllm[f"responses {ending}"]
    )


@needs_vllm
@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_have_the_same_tokens(
    vllm: dict[str, Any], folders: dict[str, Path], template: str
) -> None:
    tokenizer = ModelTokenizer(folders[template])
    chats = [tokenizer.render(chat_of(ChatBody(**chat))) for chat in CHATS]
    assert chats == vllm[f"{template} chats"]
    items = [tokenizer.render(chat_of_responses(ResponsesBody(**body))) for body in RESPONSES]
    assert items == vllm[f"{template} responses"]
    messages = [tokenizer.render(chat_of_messages(MessagesBody(**body))) for body in ANTHROPIC]
    assert messages == vllm[f"{template} messages"]
    for body, expected in zip(PROMPTS, vllm[f"{template} prompts"], strict=True):
        given = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        if isinstance(given[0], str):
            special = body.get("add_special_tokens", True)
            assert [
                tokenizer.encode(text, add_special_tokens=special) for text in given
            ] == expected
        else:
            assert [given] == expected


@needs_vllm
def test_answers_of_a_real_tokenizer_come_back_as_they_were(folders: dict[str, Path]) -> None:
    tokenizer = ModelTokenizer(folders["texts"])
    generated = [tokenizer.vocabulary.openers[3], *tokenizer.vocabulary.words[:40]]
    text = "".join(word for _, word in generated)
    assert tokenizer.encode(text, add_special_tokens=False) == [i for i, _ in generated]
    assert tokenizer.decode([token_id for token_id, _ in generated]) == text
    assert tokenizer.vocabulary.stop_id == 2


def refusal_of(body: dict[str, Any]) -> tuple[str, str | None]:
    """Message and field of the simulator's refusal."""
    try:
        chat = ChatBody(messages=[], **body)
        param = "max_tokens" if chat.max_completion_tokens is None else "max_completion_tokens"
        limit = OutputLimit(param, getattr(chat, param))
        check_output(limit, max_model_len=MAX_MODEL_LEN)
        max_tokens = 100 if limit.max_tokens is None else limit.max_tokens
        sampling_of(chat, max_tokens=max_tokens, n=chat.n or 0, min_tokens=chat.min_tokens)
    except RequestRefused as refused:
        return refused.message, refused.param
    return "", None


@needs_vllm
@pytest.mark.parametrize("index", range(len(REFUSED)))
def test_refusals_are_in_the_same_words(vllm: dict[str, Any], index: int) -> None:
    message, param = vllm["refusals"][index]
    assert message
    assert refusal_of(REFUSED[index]) == (message, param)


@needs_vllm
def test_metrics(vllm: dict[str, Any]) -> None:
    config = SchedulerConfig(KvCacheConfig(100, 16), MAX_MODEL_LEN, 8, 64)
    registry = CollectorRegistry()
    registry.register(
        MetricsCollector(
            EngineMetrics(max_model_len=MAX_MODEL_LEN),
            Scheduler(config),
            model_name="sim",
            cache_config={"num_gpu_blocks": "100", "block_size": "16"},
        )
    )
    ours = {metric.name: described(metric) for metric in registry.collect()}
    theirs = vllm["metrics"]
    info = ours.pop("vllm:cache_config_info")
    assert set(info["labels"]) <= set(theirs["vllm:cache_config_info"]["labels"])
    assert len(ours) >= 24
    assert ours == {name: theirs[name] for name in ours}


def openai_reply(kind: str, options: ChunkOptions) -> OpenAIReply:
    shapes = ChatShapes() if kind == "chat" else CompletionShapes()
    return OpenAIReply(shapes, ENVELOPE, token_stream(), options)


def without_prompt_ids(said: list[Any]) -> list[Any]:
    """The simulator does not repeat a prompt's ids."""
    for _, content in said:
        if isinstance(content, dict):
            for part in (content, *content["choices"]):
                if part.get("prompt_token_ids") is not None:
                    part["prompt_token_ids"] = None
    return said


def described(metric: Metric) -> dict[str, Any]:
    """What must be equal: type, text, labels, bucket bounds, and the values of extra labels."""
    samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
    own = {"model_name", "engine"}
    return {
        "type": metric.type,
        "documentation": metric.documentation,
        "labels": sorted({name for sample in samples for name in sample.labels}),
        "values": sorted(
            [name, value]
            for sample in samples
            if metric.name != "vllm:cache_config_info"
            for name, value in sample.labels.items()
            if name not in own
        ),
    }


# From here on: the program, which knows vLLM.


class Speaker:
    """vLLM's response generators, fed by hand."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def serving(self, kind: type) -> Any:
        from types import SimpleNamespace

        serving = object.__new__(kind)
        serving.__dict__.update(
            parser_cls=None,
            parser=None,
            use_harmony=False,
            enable_force_include_usage=False,
            enable_prompt_tokens_details=True,
            enable_per_request_metrics=False,
            _include_reasoning_tokens_details=False,
            enable_auto_tools=False,
            enable_log_outputs=False,
            enable_store=False,
            request_logger=None,
            response_role="assistant",
            return_tokens_as_token_ids=False,
            system_fingerprint=FINGERPRINT,
            tool_server=None,
            model_config=self.config.model_config,
            engine_client=SimpleNamespace(),
        )
        return serving

    async def outputs(self, ending: str, *, whole: bool) -> AsyncIterator[Any]:
        from vllm.outputs import CompletionOutput, RequestOutput

        reason, stop_reason = ENDINGS[ending]
        parts = [WORDS] if whole else [[word] for word in WORDS]
        for number, words in enumerate(parts):
            is_last = number == len(parts) - 1
            output = CompletionOutput(
                index=0,
                text="".join(text for text, _ in words),
                token_ids=[token_id for _, token_id in words],
                cumulative_logprob=None,
                logprobs=None,
                finish_reason=reason if is_last else None,
                stop_reason=stop_reason if is_last else None,
            )
            yield RequestOutput(
                "the-id",
                "prompt",
                list(range(NUM_PROMPT)),
                None,
                [output],
                is_last,
                num_cached_tokens=NUM_CACHED,
                num_cache_creation_tokens=NUM_CREATED,
            )

    async def chat(self, kind: type, ending: str, *, whole: bool = False, **body: Any) -> Any:
        from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        request = ChatCompletionRequest(messages=[], **body)
        serving = self.serving(kind)
        arguments = (
            request,
            self.outputs(ending, whole=whole),
            "the-id",
            "sim",
            [],
            None,
            RequestResponseMetadata(request_id="the-id"),
        )
        if whole:
            return serving, await serving.chat_completion_full_generator(*arguments)
        return serving, serving.chat_completion_stream_generator(*arguments)

    async def completion(self, ending: str, *, whole: bool = False, **body: Any) -> Any:
        from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest
        from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

        request = CompletionRequest(prompt="prompt", **body)
        serving = self.serving(OpenAIServingCompletion)
        metadata = RequestResponseMetadata(request_id="the-id")
        if whole:
            (result,) = [output async for output in self.outputs(ending, whole=True)]
            return serving.request_output_to_completion_response(
                [result], request, "the-id", CREATED, "sim", None, metadata
            )

        async def numbered() -> AsyncIterator[Any]:
            async for output in self.outputs(ending, whole=False):
                yield 0, output

        return serving.completion_stream_generator(
            request, [None], numbered(), "the-id", CREATED, "sim", 1, None, metadata
        )

    async def responses(self, ending: str) -> AsyncIterator[str]:
        from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
        from vllm.entrypoints.openai.responses.api_router import _convert_stream_to_sse_events
        from vllm.entrypoints.openai.responses.context import SimpleContext
        from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
        from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses

        request = ResponsesRequest(input="a", request_id="the-id", stream=True)
        request.store = False
        context = SimpleContext(response_parser=None)

        async def contexts() -> AsyncIterator[Any]:
            async for output in self.outputs(ending, whole=False):
                context.append_output(output)
                yield context

        serving = self.serving(OpenAIServingResponses)
        generator = serving.responses_stream_generator(
            request,
            request.to_sampling_params(77, {}),
            contexts(),
            context,
            "sim",
            None,
            RequestResponseMetadata(request_id="the-id"),
            CREATED,
        )
        async for event in _convert_stream_to_sse_events(generator):
            yield event


async def collect(generator: AsyncIterator[str]) -> list[Any]:
    return events([event async for event in generator])


async def say_openai(speaker: Speaker) -> dict[str, Any]:
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat

    said: dict[str, Any] = {}
    for ending in ENDINGS:
        for usage, options in USAGES.items():
            for ids in (False, True):
                body = {"stream": True, "stream_options": options, "return_token_ids": ids}
                _, chat = await speaker.chat(OpenAIServingChat, ending, **body)
                said[f"chat {usage} {ending} {ids}"] = await collect(chat)
                completion = await speaker.completion(ending, **body)
                said[f"completion {usage} {ending} {ids}"] = await collect(completion)
        _, chat = await speaker.chat(OpenAIServingChat, ending, whole=True)
        said[f"chat whole {ending}"] = chat.model_dump()
        completion = await speaker.completion(ending, whole=True)
        said[f"completion whole {ending}"] = completion.model_dump()
    return said


async def say_others(speaker: Speaker) -> dict[str, Any]:
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages

    said: dict[str, Any] = {}
    usage = {"stream": True, "stream_options": USAGES["continuous"]}
    for ending in ENDINGS:
        serving, chat = await speaker.chat(AnthropicServingMessages, ending, **usage)
        said[f"messages {ending}"] = await collect(serving.message_stream_converter(chat))
        serving, whole = await speaker.chat(AnthropicServingMessages, ending, whole=True)
        answer = serving.messages_full_converter(whole)
        said[f"messages whole {ending}"] = answer.model_dump(exclude_none=True)
        said[f"responses {ending}"] = await collect(speaker.responses(ending))
    return said


async def render(name: str, config: Any) -> dict[str, Any]:
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.renderers.online_renderer import OnlineRenderer
    from vllm.renderers.registry import renderer_from_config

    renderer = OnlineRenderer(
        config.model_config,
        renderer_from_config(config),
        request_logger=None,
        chat_template=None,
        chat_template_content_format="auto",
    )

    async def chat_ids(request: Any) -> list[int]:
        result = await renderer.render_chat(request)
        _, (prompt,) = result
        return list(prompt["prompt_token_ids"])

    responses = [await renderer.render_responses(ResponsesRequest(**body)) for body in RESPONSES]
    prompts = [await renderer.render_completion(CompletionRequest(**body)) for body in PROMPTS]
    convert = AnthropicServingMessages.to_chat_completion_request
    return {
        f"{name} chats": [await chat_ids(ChatCompletionRequest(**chat)) for chat in CHATS],
        f"{name} responses": [list(r.engine_input["prompt_token_ids"]) for r in responses],
        f"{name} prompts": [[list(p["prompt_token_ids"]) for p in some] for some in prompts],
        f"{name} messages": [
            await chat_ids(convert(AnthropicMessagesRequest(**body))) for body in ANTHROPIC
        ],
    }


def refusals(config: Any) -> list[tuple[str, str | None]]:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.exceptions import VLLMValidationError

    found: list[tuple[str, str | None]] = []
    for body in REFUSED:
        try:
            request = ChatCompletionRequest(messages=[], **body)
            request.build_tok_params(config.model_config)
            limit = request.max_completion_tokens
            limit = request.max_tokens if limit is None else limit
            request.to_sampling_params(100 if limit is None else limit, {})
        except VLLMValidationError as error:
            found.append((str(error), error.parameter))
        else:
            found.append(("", None))
    return found


def registered_metrics(config: Any) -> dict[str, Any]:
    from prometheus_client import REGISTRY
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    PrometheusStatLogger(config).log_engine_initialized()
    return {
        metric.name: described(metric)
        for metric in REGISTRY.collect()
        if metric.name.startswith("vllm:")
    }


def main(folders: dict[str, str]) -> None:
    import time

    from vllm.engine.arg_utils import EngineArgs

    configs = {
        name: EngineArgs(model=folder, served_model_name="sim").create_engine_config()
        for name, folder in folders.items()
    }
    config = configs["texts"]
    time.time = lambda: CREATED

    async def say() -> dict[str, Any]:
        speaker = Speaker(config)
        said = await say_openai(speaker) | await say_others(speaker)
        for name, model in configs.items():
            said |= await render(name, model)
        return said

    said = asyncio.run(say())
    said["refusals"] = refusals(config)
    said["metrics"] = registered_metrics(config)
    print(json.dumps(said))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
