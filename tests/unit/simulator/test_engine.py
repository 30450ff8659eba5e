"""The engine's clock, in virtual time: each scenario is exact and takes milliseconds."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from statistics import mean
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from virtual_time import simulate

from serving.core.types import EngineLoad, ModelId, ReplicaId
from serving.errors import EngineError
from serving.protocol.usage import RequestUsage, TokenCounts, current_usage
from serving.rendering.refusal import RequestRefused
from serving.rendering.tokenizer import PieceTokenizer
from serving.routing.block_hashing import BlockHasher
from serving.routing.prefix_index import CacheGroup, PrefixIndex
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings, TimingSettings
from serving.simulator.engine import EngineLoop
from serving.simulator.generation import Answer, AnswerSource, Delta, Prompt, Sampling
from serving.simulator.launch import SimulatedEngine, build_engine

STEP_S = 0.25
OVERHEAD_S = 0.125
BLOCK_SIZE = 16
SECRET = b"secret"
VOCABULARY = PieceTokenizer().vocabulary
TEN = Sampling(max_tokens=10, ignore_eos=True)
EXPECTED_METRICS = {
    "prompt_tokens_total": 100,
    "generation_tokens_total": 20,
    "prefix_cache_queries_total": 100,
    "prefix_cache_hits_total": 48,
    "num_requests_running": 0,
    "time_to_first_token_seconds_sum": 2 * (OVERHEAD_S + STEP_S),
    "inter_token_latency_seconds_count": 18,
    "inter_token_latency_seconds_sum": 18 * STEP_S,
    "request_queue_time_seconds_sum": 0,
    "request_prefill_time_seconds_sum": 2 * STEP_S,
    "request_decode_time_seconds_sum": 18 * STEP_S,
    "request_time_per_output_token_seconds_sum": 2 * STEP_S,
    "iteration_tokens_total_sum": 50 + 2 + 20,
    "request_params_n_sum": 2,
    "request_max_num_generation_tokens_sum": 20,
    "e2e_request_latency_seconds_sum": 2 * (OVERHEAD_S + 10 * STEP_S),
}
"""After two requests with the same 50 tokens, one after the other, for 10 tokens each."""


def prompt(num_tokens: int = 40, *, first: int = 100, **keys: Any) -> Prompt:
    return Prompt(range(first, first + num_tokens), is_chat=True, **keys)


def settings(*, hang_timeout_s: float = 60, **simulator: Any) -> ModelSettings:
    timing = TimingSettings(
        step_s=STEP_S,
        prefill_tokens_per_s=1e9,
        decode_s_per_sequence=0,
        attention_s_per_token=0,
        overhead_s=OVERHEAD_S,
    )
    limits = EngineSettings(
        max_model_len=512,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        hang_timeout_s=hang_timeout_s,
    )
    values = {"timing": timing, "kv_blocks": 129, **simulator}
    return ModelSettings(engine=limits, simulator=SimulatorSettings(**values))


@asynccontextmanager
async def running(
    *, registry: CollectorRegistry | None = None, **values: Any
) -> AsyncIterator[SimulatedEngine]:
    registry = registry or CollectorRegistry()
    clock = asyncio.get_running_loop().time
    engine = build_engine(
        ModelId("sim"), settings(**values), None, registry=registry, clock=clock, secret=SECRET
    )
    engine.loop.start()
    yield engine
    engine.shutdown()


def now() -> float:
    return asyncio.get_running_loop().time()


async def timed(engine: SimulatedEngine, *args: Any) -> list[tuple[float, Delta]]:
    """Every token with the moment at which its reader had it."""
    stream = engine.loop.generate(*args)
    tokens = []
    while not stream.is_finished:
        tokens += [(now(), delta) for delta in await stream.read()]
    return tokens


def test_tokens_come_at_the_end_of_each_step() -> None:
    async def scenario() -> list[float]:
        async with running() as engine:
            return [at for at, _ in await timed(engine, [prompt()], TEN)]

    times = simulate(scenario())
    expected = [OVERHEAD_S + STEP_S * (number + 1) for number in range(10)]
    assert times == pytest.approx(expected, abs=1e-6)


def test_long_prompts_are_prefilled_in_chunks() -> None:
    async def scenario() -> float:
        async with running() as engine:
            return (await timed(engine, [prompt(150)], TEN))[0][0]

    assert simulate(scenario()) == pytest.approx(OVERHEAD_S + 3 * STEP_S, abs=1e-6)


def test_a_request_waits_for_the_end_of_the_step_in_which_it_arrives() -> None:
    async def scenario() -> float:
        async with running() as engine:
            first = asyncio.create_task(timed(engine, [prompt()], TEN))
            await asyncio.sleep(OVERHEAD_S + 0.01)
            second = await timed(engine, [prompt(first=500)], TEN)
            await first
            return second[0][0]

    assert simulate(scenario()) == pytest.approx(OVERHEAD_S + 2 * STEP_S, abs=1e-6)


def test_steps_do_not_drift_when_the_process_wakes_late() -> None:
    async def late(delay_s: float) -> None:
        await asyncio.sleep(delay_s + 0.03)

    async def scenario() -> float:
        async with running() as engine:
            loop = EngineLoop(replace(engine.loop.parts, sleep=late))
            loop.start()
            stream = loop.generate([prompt()], TEN)
            await stream.read_all()
            loop.shutdown()
            return now()

    assert simulate(scenario()) == pytest.approx(OVERHEAD_S + 10 * STEP_S + 0.03, abs=1e-6)


def test_a_process_that_was_stopped_does_not_rush_to_catch_up() -> None:
    delays = iter([0.0, 0.0, 60.0])

    async def stopped_once(delay_s: float) -> None:
        await asyncio.sleep(delay_s + next(delays, 0.0))

    async def scenario() -> list[float]:
        async with running() as engine:
            loop = EngineLoop(replace(engine.loop.parts, sleep=stopped_once))
            loop.start()
            stream = loop.generate([prompt()], TEN)
            times = []
            while not stream.is_finished:
                times += [now() for _ in await stream.read()]
            loop.shutdown()
            return times

    times = simulate(scenario())
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([60 + STEP_S, *[STEP_S] * 8], abs=1e-6)


def test_the_same_prompt_hits_the_prefix_cache() -> None:
    async def scenario() -> tuple[int, int, int]:
        async with running() as engine:
            cached = []
            for keys in ({}, {}, {"cache_salt": "x"}):
                stream = engine.loop.generate([prompt(50, **keys)], TEN)
                await stream.read_all()
                cached.append(stream.cache_uses[0].num_cached_tokens)
            return tuple(cached)  # type: ignore[return-value]

    assert simulate(scenario()) == (0, 48, 0)


def test_a_second_turn_hits_the_answer_of_the_first() -> None:
    async def scenario() -> int:
        async with running() as engine:
            first = prompt(30)
            deltas = await engine.loop.generate([first], TEN).read_all()
            history = [*first.token_ids, *(delta.token_id for delta in deltas)]
            stream = engine.loop.generate([Prompt([*history, 7, 8, 9], True)], TEN)
            await stream.read_all()
            return stream.cache_uses[0].num_cached_tokens

    # The last token of an answer is never computed, so 39 tokens were: two full blocks.
    assert simulate(scenario()) == 2 * BLOCK_SIZE


def test_an_aborted_request_frees_its_blocks_at_once() -> None:
    async def scenario() -> None:
        async with running() as engine:
            stream = engine.loop.generate([prompt()], TEN)
            await stream.read()
            assert engine.load().running == 1
            assert engine.load().kv_blocks_used == 3
            engine.loop.abort(stream)
            assert engine.load().running == 0
            assert engine.load().kv_blocks_used == 0
            assert engine.loop.is_idle

    simulate(scenario())


def test_a_request_aborted_before_it_entered_never_runs() -> None:
    async def scenario() -> None:
        async with running() as engine:
            engine.loop.abort(engine.loop.generate([prompt()], TEN))
            await asyncio.sleep(5)
            assert engine.load().waiting == 0
            assert engine.loop.is_idle
            assert len(await timed(engine, [prompt()], TEN)) == 10

    simulate(scenario())


def test_requests_beyond_the_batch_wait() -> None:
    async def scenario() -> None:
        async with running() as engine:
            streams = [
                engine.loop.generate([prompt(10, first=100 * n + 50)], TEN) for n in range(6)
            ]
            assert engine.load().waiting == 6
            await streams[0].read()
            assert (engine.load().running, engine.load().waiting) == (4, 2)
            for stream in streams:
                assert len(await stream.read_all()) in (9, 10)

    simulate(scenario())


def test_equal_seeds_give_equal_runs() -> None:
    async def scenario(seed: int) -> list[tuple[float, Delta]]:
        timing = TimingSettings(step_s=0.01, jitter=0.5)
        async with running(seed=seed, timing=timing, answer_tokens=30) as engine:
            runs = [
                timed(engine, [prompt(20, first=n * 50 + 20)], Sampling(max_tokens=200, n=2))
                for n in range(5)
            ]
            return [token for run in await asyncio.gather(*runs) for token in run]

    assert simulate(scenario(1)) == simulate(scenario(1))
    assert simulate(scenario(1)) != simulate(scenario(2))


def test_an_hour_of_load_simulates_in_seconds() -> None:
    async def scenario() -> float:
        async with running(answer_tokens=100) as engine:
            rng = Random(1)
            tasks = []
            for number in range(60):
                await asyncio.sleep(rng.expovariate(1 / 60))
                asked = engine.loop.generate(
                    [prompt(100, first=number * 7 + 20)], Sampling(max_tokens=300)
                )
                tasks.append(asyncio.create_task(asked.read_all()))
            await asyncio.gather(*tasks)
            return now()

    began = time.perf_counter()
    assert simulate(scenario()) > 2400
    assert time.perf_counter() - began < 5


def test_a_dead_engine_says_so() -> None:
    async def scenario() -> None:
        async with running() as engine:
            await engine.check_health()
            stream = engine.loop.generate([prompt()], TEN)
            reader = asyncio.create_task(stream.read_all())
            await asyncio.sleep(1)
            engine.shutdown()
            with pytest.raises(RequestRefused):
                await reader
            with pytest.raises(EngineError) as died:
                await engine.check_health()
            assert died.value.code == "engine_dead"
            with pytest.raises(RequestRefused):
                engine.loop.generate([prompt()], TEN)

    simulate(scenario())


def test_an_engine_hangs_that_has_a_request_and_makes_no_step() -> None:
    timing = TimingSettings(step_s=30, overhead_s=0)

    async def scenario() -> list[str | None]:
        codes: list[str | None] = []

        async def ask(engine: SimulatedEngine) -> None:
            try:
                await engine.check_health()
                codes.append(None)
            except EngineError as error:
                codes.append(error.code)

        async with running(timing=timing, hang_timeout_s=20) as engine:
            await ask(engine)
            await asyncio.sleep(100)  # idle for long
            stream = engine.loop.generate([prompt()], TEN)
            await ask(engine)
            await asyncio.sleep(19)
            await ask(engine)
            await asyncio.sleep(2)
            await ask(engine)
            await stream.read()  # the step ends after all
            await ask(engine)
            engine.loop.abort(stream)
            await asyncio.sleep(100)
            await ask(engine)
        return codes

    assert simulate(scenario()) == [None, None, None, "engine_hung", None, None]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "cannot be empty"),
        (range(512), "is longer than the maximum model length of 512"),
        ([5, 10**9], "Token id 1000000000 is out of vocabulary"),
        ([-1, 5], "Token id -1 is out of vocabulary"),
    ],
)
def test_prompts_that_cannot_be_answered(tokens: Any, message: str) -> None:
    async def scenario() -> None:
        async with running() as engine:
            with pytest.raises(RequestRefused, match=message):
                engine.loop.generate([Prompt(tokens, True)], TEN)
            assert engine.loop.is_idle

    simulate(scenario())


def test_metrics_add_up() -> None:
    registry = CollectorRegistry()

    async def scenario() -> None:
        async with running(registry=registry) as engine:
            for _ in range(2):
                await engine.loop.generate([prompt(50)], TEN).read_all()

    simulate(scenario())
    labels = {"model_name": "sim", "engine": "0"}
    seen = {name: registry.get_sample_value(f"vllm:{name}", labels) for name in EXPECTED_METRICS}
    assert seen == pytest.approx(EXPECTED_METRICS)
    finished = {**labels, "finished_reason": "length"}
    assert registry.get_sample_value("vllm:request_success_total", finished) == 2


def finished(sampling: Sampling, *, mean_tokens: int = 10, seed: int = 0) -> tuple[str, Answer]:
    """An answer sampled to its end, as the engine does."""
    source = AnswerSource(VOCABULARY, mean_tokens=mean_tokens, seed=seed)
    (rng,) = source.rngs(prompt(), 1)
    answer = Answer(source, rng, sampling, is_chat=True)
    text = ""
    while answer.finish_reason is None:
        token_id = answer.sample()
        is_stopped = token_id in {VOCABULARY.stop_id, *sampling.stop_token_ids}
        is_capped = answer.num_tokens >= sampling.max_tokens
        text += answer.take(is_stopped=is_stopped, is_capped=is_capped)
    return text, answer


def test_answers_end_by_themselves_around_their_mean() -> None:
    lengths = []
    for seed in range(600):
        text, answer = finished(Sampling(max_tokens=10_000), mean_tokens=50, seed=seed)
        assert answer.finish_reason == "stop"
        assert text
        assert len(text.split()) == answer.num_tokens - 1
        lengths.append(answer.num_tokens)
    assert mean(lengths) == pytest.approx(50, rel=0.15)
    assert max(lengths) > 200


def test_max_and_min_tokens_bound_an_answer() -> None:
    for seed in range(20):
        assert finished(Sampling(max_tokens=7, ignore_eos=True), seed=seed)[1].num_tokens == 7
        _, answer = finished(Sampling(max_tokens=300, min_tokens=100), seed=seed)
        assert answer.num_tokens > 100


def test_one_word_is_the_shortest_answer() -> None:
    text, answer = finished(Sampling(max_tokens=100), mean_tokens=1)
    assert text
    assert answer.num_tokens == 2


@pytest.mark.parametrize("is_included", [False, True])
def test_a_stop_string_ends_the_answer_and_is_cut_off(is_included: bool) -> None:
    whole, _ = finished(Sampling(max_tokens=40, ignore_eos=True))
    stop = whole[20:27]  # from the middle of a word to the middle of another
    sampling = Sampling(
        max_tokens=40,
        ignore_eos=True,
        stop=("nowhere", stop),
        include_stop_str_in_output=is_included,
    )

    text, answer = finished(sampling)

    end = whole.index(stop) + (len(stop) if is_included else 0)
    assert text == whole[:end]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)


def test_a_stop_string_that_never_comes_changes_nothing() -> None:
    plain, _ = finished(Sampling(max_tokens=40, ignore_eos=True))
    text, answer = finished(Sampling(max_tokens=40, ignore_eos=True, stop=("nowhere",)))
    assert text == plain
    assert answer.finish_reason == "length"


def test_a_stop_token_ends_the_answer_and_is_named() -> None:
    text, _ = finished(Sampling(max_tokens=40, ignore_eos=True))
    third = f" {text.split()[2]}"
    token_id = next(i for i, word in VOCABULARY.words if word == third)
    sampling = Sampling(max_tokens=40, ignore_eos=True, stop_token_ids=frozenset({token_id}))

    _, answer = finished(sampling)

    assert (answer.num_tokens, answer.finish_reason, answer.stop_reason) == (3, "stop", token_id)


# --- what gateways are told ----------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 33])
def test_a_gateway_can_foretell_hits_from_what_the_engine_tells(window: int | None) -> None:
    hasher = BlockHasher(SECRET, block_size=BLOCK_SIZE)
    replica = ReplicaId("r")

    def names(some: Prompt) -> list[int]:
        tokens = np.array(some.token_ids[:-1])  # the last token is computed in any case
        found: list[int] = hasher.names(
            tokens, parent=hasher.root(cache_salt=some.cache_salt)
        ).tolist()
        return found

    async def scenario() -> list[tuple[int, int]]:
        pairs = []
        async with running(sliding_window=window) as engine:
            groups = [CacheGroup(blocks) for blocks in engine.layout.window_blocks]
            index = PrefixIndex(groups, max_entries=1000)
            for some in (
                prompt(100),
                prompt(100),
                prompt(140),
                prompt(99),
                prompt(100, cache_salt="x"),
            ):
                change = engine.cache_change()
                index.store(replica, change.stored.get(0, []))
                index.remove(replica, change.removed.get(0, []))
                foretold = index.hits(names(some)).get(replica, 0) * BLOCK_SIZE
                stream = engine.loop.generate([some], TEN)
                await stream.read_all()
                pairs.append((foretold, stream.cache_uses[0].num_cached_tokens))
            engine.cache_change()
            assert len(engine.cached_blocks()[0]) > 5
        return pairs

    pairs = simulate(scenario())
    assert all(foretold == cached for foretold, cached in pairs)
    assert [cached for _, cached in pairs][:2] == [0, 96]


def test_an_engine_tells_the_prompts_it_has_yet_to_compute() -> None:
    async def scenario() -> list[int]:
        async with running() as engine:
            waiting = []
            stream = engine.loop.generate([prompt(200)], TEN)
            for pause_s in (0.0, OVERHEAD_S + 0.01, STEP_S, 4 * STEP_S):
                await asyncio.sleep(pause_s)
                waiting.append(engine.load().waiting_tokens)
            assert engine.load().prefill_tokens_per_s == pytest.approx(64 / STEP_S, rel=0.05)
            await stream.read_all()
            return waiting

    assert simulate(scenario()) == [200, 136, 72, 0]


def test_an_engine_adds_up_its_work() -> None:
    async def scenario() -> EngineLoad:
        async with running() as engine:
            for _ in range(2):
                await engine.loop.generate([prompt(50)], TEN).read_all()
            return engine.load()

    load = simulate(scenario())
    assert load.prompt_tokens_computed == 100 - 48
    assert (load.output_tokens, load.preemptions) == (20, 0)


def accounted(prompts: list[Prompt], sampling: Sampling, *, before: int = 0, **more: Any) -> Any:
    """What some answers count, the same prompts having been asked `before` times."""

    async def scenario() -> TokenCounts:
        async with running() as engine:
            for _ in range(before):
                await engine.loop.generate(prompts, sampling).read_all()
            usage = RequestUsage()
            token = current_usage.set(usage)
            await engine.loop.generate(prompts, sampling, **more).read_all()
            current_usage.reset(token)
            return usage.settle()

    return simulate(scenario())


def test_a_request_counts_what_it_takes() -> None:
    several = [prompt(50), prompt(30, first=300)]
    assert accounted([prompt(50)], TEN) == (50, 0, 10)
    assert accounted([prompt(50)], TEN, before=1) == (50, 48, 10)
    assert accounted([prompt(50)], replace(TEN, n=3)) == (50, 0, 30)
    assert accounted(several, TEN, before=1) == (80, 48 + 16, 20)
    assert accounted([prompt(50)], TEN, num_emitted=4) == (0, 0, 6)


def test_a_request_that_is_left_counts_what_it_took() -> None:
    async def scenario() -> list[TokenCounts]:
        async with running() as engine:
            seen = []
            for steps in (0, 3):
                usage = RequestUsage()
                token = current_usage.set(usage)
                stream = engine.loop.generate([prompt(50, cache_salt=str(steps))], TEN)
                current_usage.reset(token)
                await asyncio.sleep(OVERHEAD_S / 2 + steps * STEP_S)
                engine.loop.abort(stream)
                seen.append(usage.settle())
                await asyncio.sleep(10 * STEP_S)
            return seen

    # The first step begins when the overhead has passed, half of it later.
    assert simulate(scenario()) == [TokenCounts(), TokenCounts(50, 0, 2)]
