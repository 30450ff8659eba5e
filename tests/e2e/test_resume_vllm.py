"""On real vLLM an answer goes on behind its first tokens as if it had never been broken off."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from journaled_call import JournaledCall

from e2e.harness import MODEL
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import resolve_weights
from serving.engine.arguments import engine_arguments, engine_environment
from serving.engine.vllm_shim import KvEventSource, VllmEngine, start_engine
from serving.planner.placement import plan_placement
from serving.protocol.journal import Journal
from serving.protocol.usage import RequestUsage, TokenCounts, current_usage
from serving.settings.model import ModelSettings
from serving.settings.weights import WeightSettings

pytestmark = [
    pytest.mark.filterwarnings("default"),  # of vLLM, in this process
    pytest.mark.asyncio(loop_scope="module"),
]
NUM_TOKENS = 24
NEAR_TIE = 0.15
"""Log probabilities in bfloat16, which has 8 bits of precision, are not nearer than that."""
PROMPTS = (
    "What is the capital of France?",
    "Écris une phrase sur l'été à Besançon.",
    "Repeat exactly: 😀😃😄😁😆😅😂🤣",
    "Count from one to twenty in words.",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    with pytest.MonkeyPatch.context() as patch:
        demo = resolve_weights(WeightSettings(source="demo"), StatePaths.from_environment())
        model = ModelSettings.model_validate(
            {
                "weights": {"source": str(demo)},
                # Threads that compute: nothing else is to be done meanwhile.
                "resources": {"device": "cpu", "num_cpus": 2},
                "engine": {"kv_cache_gib": 0.2, "max_model_len": 2048, "enforce_eager": True},
            }
        )
        for name, value in engine_environment(model.resources, num_cores=2).items():
            patch.setenv(name, value)
        endpoint = f"ipc://{tmp_path_factory.mktemp('resume')}/events"
        arguments = engine_arguments(
            MODEL,
            model,
            weights=demo,
            placement=plan_placement(model.engine, resources=model.resources),
            kv_events=endpoint,
        )
        source = KvEventSource(endpoint, b"secret", {})
        running = await start_engine(arguments, hang_timeout_s=120, events=source)
        yield running
        running.shutdown()


def requests() -> list[tuple[str, dict[str, Any]]]:
    common = {
        "model": MODEL, "stream": True, "max_tokens": NUM_TOKENS, "temperature": 0
    }  # fmt: skip
    usage = {"stream_options": {"include_usage": True}}
    found = [
        ("/v1/chat/completions", {**common, **usage, "messages": [{"role": "user", "content": p}]})
        for p in PROMPTS
    ]
    found.append(("/v1/completions", {**common, **usage, "prompt": PROMPTS[2], "echo": True}))
    found.append(
        ("/v1/messages", {**common, "messages": [{"role": "user", "content": PROMPTS[1]}]})
    )
    greeting = [{"role": "user", "content": PROMPTS[0]}]
    rarely = {**common, **usage, "messages": greeting, "stream_interval": 3, "ignore_eos": True}
    found.append(("/v1/chat/completions", rarely))
    counting = [{"role": "user", "content": PROMPTS[3]}]
    stopped = {**common, "messages": counting, "stop": [" four, five"]}
    found.append(("/v1/chat/completions", stopped))
    return found


@pytest.mark.timeout(600)
async def test_answers_continue_exactly(engine: VllmEngine) -> None:
    """Greedy answers at several cuts. Each goes on with what an idle engine generates from prompt
    and tokens so far, and says what the undisturbed one does, unless the arithmetic of another
    batch decides a near-tie of two tokens otherwise, the share of which is shown."""
    num_cuts, num_ties = 0, 0
    for number, (path, body) in enumerate(requests()):
        whole = JournaledCall(path, {**body, "cache_salt": f"whole-{number}"})
        await whole.run(engine.app)
        assert whole.is_whole
        assert whole.reader.can_resume
        for cut in sorted({1, whole.num_frames // 2, max(whole.num_frames - 2, 1)}):
            call = JournaledCall(path, {**body, "cache_salt": f"cut-{number}-{cut}"})
            await call.run(engine.app, max_frames=cut)
            emitted = tokens(call)
            await call.run(engine.app)
            assert call.is_whole
            await assert_as_generated(engine, call, body, emitted)
            num_cuts += 1
            if tokens(call) == tokens(whole):
                assert essence(call) == essence(whole), cut
            else:
                num_ties += 1
    print(f"{num_ties} of {num_cuts} continued answers differ by a near-tie")
    assert num_ties < num_cuts


@pytest.mark.timeout(600)
async def test_a_continued_answer_is_accounted_for_once(engine: VllmEngine) -> None:
    """Its prompt and first tokens where they were computed, the rest where it went on."""
    path, body = requests()[0]
    body = {**body, "ignore_eos": True}
    for cut in (0, 1, NUM_TOKENS // 2, NUM_TOKENS):
        call = JournaledCall(path, {**body, "cache_salt": f"counted-{cut}"})
        begun = await counted(engine, call, max_frames=cut)
        num_emitted = len(tokens(call))
        assert begun.output >= num_emitted, cut
        rest = await counted(engine, call)
        assert rest.output == NUM_TOKENS - num_emitted, cut
        assert rest.cached <= rest.prompt, cut
        assert bool(rest.prompt) is not bool(num_emitted), cut
        assert begun.prompt or not num_emitted, cut


async def counted(
    engine: VllmEngine, call: JournaledCall, *, max_frames: int | None = None
) -> TokenCounts:
    """What one run of a request takes of the engine."""
    usage = RequestUsage()
    context = current_usage.set(usage)
    await call.run(engine.app, max_frames=max_frames)
    current_usage.reset(context)
    return usage.settle()


async def assert_as_generated(
    engine: VllmEngine, call: JournaledCall, body: dict[str, Any], emitted: list[int]
) -> None:
    """The answer goes on as the idle engine does, up to a near-tie of two tokens."""
    rest = tokens(call)[len(emitted) :]
    expected = (await generated(engine, call.path, body, emitted))["token_ids"][: len(rest)]
    if rest == expected:
        return
    same = next(i for i, pair in enumerate(zip(rest, expected, strict=True)) if len({*pair}) > 1)
    found = await generated(engine, call.path, body, emitted + rest[:same], logprobs=2)
    best, second = sorted(found["logprobs"]["top_logprobs"][0].values(), reverse=True)[:2]
    print(f"a near-tie: {best:.3f} and {second:.3f}")
    assert best - second < NEAR_TIE


def essence(call: JournaledCall) -> tuple[str, list[str]]:
    """The text that the client has got, and what else each event says, repetitions left out: an
    engine puts several tokens into one event when its process is short of time."""
    text, rest = "", []
    for line in call.undated.decode().splitlines():
        event = json.loads(line[6:]) if line.startswith("data: {") else line
        if isinstance(event, dict):
            for holder in (*event.get("choices", ()), event.get("delta") or {}):
                part = holder.get("delta", holder)
                for name in ("content", "text"):
                    text += part.pop(name, None) or ""
        if (said := json.dumps(event)) not in rest[-3:]:
            rest.append(said)
    return text, rest


def tokens(call: JournaledCall) -> list[int]:
    """All that the engines have generated."""
    return Journal(bytes(call.reader.records)).token_ids


async def generated(
    engine: VllmEngine, path: str, body: dict[str, Any], emitted: list[int], **options: Any
) -> dict[str, Any]:
    """What the idle engine generates behind a prompt and some tokens: the choice it answers."""
    transport = httpx.ASGITransport(engine.app)  # type: ignore[arg-type]  # as starlette has it
    async with httpx.AsyncClient(transport=transport, base_url="http://e", timeout=120) as client:
        asked = "prompt" if path == "/v1/completions" else "messages"
        answer = await client.post("/tokenize", json={"model": MODEL, asked: body[asked]})
        plain = {
            "model": MODEL, "prompt": answer.json()["tokens"] + emitted, "temperature": 0,
            "max_tokens": max(NUM_TOKENS - len(emitted), 1), "return_token_ids": True,
            "ignore_eos": body.get("ignore_eos", False),
            "cache_salt": f"idle {len(emitted)}", **options,
        }  # fmt: skip
        answer = await client.post("/v1/completions", json=plain)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["choices"][0]
    return found
