"""The simulator schedules, caches and evicts step by step as vLLM's real scheduler does.

Both get the same requests, aborts and sampled tokens. After every step they must agree on the
tokens scheduled, both queues, every block table, the order of the free blocks, the KV events, and
after the last one on usage and metrics. No model runs: the engine's own scheduler is built by hand.

vLLM warns on import and changes process-wide state, so pytest runs this file as a program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest

from serving.core.kv_events import BlockRemoved, BlockStored, KvEvent
from serving.simulator.kv_cache import KvCacheConfig
from serving.simulator.request import Request
from serving.simulator.scheduler import Scheduler, SchedulerConfig
from serving.simulator.step_plan import StepPlan

STOP_TOKEN = 0
VOCABULARY = 6
"""Small, so that outputs repeat each other and blocks become equal."""
NUM_STEPS = 150
NUM_SEEDS = 16
WINDOWS = {"full": (None,), "window": (1, 3, 8, 13, 40)}


@dataclass(frozen=True)
class Arrival:
    """A request as both schedulers are told of it."""

    request_id: str
    prompt: list[int]
    max_tokens: int
    lora_name: str | None
    cache_salt: str | None


@dataclass
class Workload:
    """A seeded engine and its clients."""

    rng: Random
    config: SchedulerConfig
    num_arrivals: int = 0
    prompts: list[list[int]] = field(default_factory=list)

    @classmethod
    def from_seed(cls, kind: str, seed: int) -> Workload:
        rng = Random(f"{kind}{seed}")
        block_size = rng.choice([1, 2, 4, 16])
        max_model_len = rng.choice([3, 12, 40]) * block_size + rng.randrange(block_size) + 2
        max_num_batched_tokens = rng.choice([7, 7, 24, 64, 512])
        window = rng.choice(WINDOWS[kind])
        longest = max_model_len
        if window is not None and rng.random() < 0.8:
            # A pool smaller than the longest sequence: only a window can live with it.
            longest = min(window - 1 + max_num_batched_tokens, max_model_len)
        num_blocks = -(-longest // block_size) + 2 + rng.choice([0, 2, 5, 12, 60])
        cache = KvCacheConfig(num_blocks, block_size, sliding_window=window, record_events=True)
        return cls(
            rng=rng,
            config=SchedulerConfig(
                cache,
                max_model_len=max_model_len,
                max_num_seqs=rng.choice([1, 3, 8, 32]),
                max_num_batched_tokens=max_num_batched_tokens,
            ),
        )

    def arrivals(self) -> Iterator[Arrival]:
        """Bursts and pauses; new prompts, longer, shorter and equal ones."""
        for _ in range(self.rng.choice([0, 0, 0, 0, 1, 3, 5])):
            self.num_arrivals += 1
            prompt = self._prompt()
            self.prompts = [*self.prompts[-8:], prompt]
            yield Arrival(
                request_id=f"r{self.num_arrivals}",
                prompt=prompt,
                max_tokens=self.rng.choice([1, 4, 10, 100]),
                lora_name=self.rng.choice([*[None] * 6, "sql"]),
                cache_salt=self.rng.choice([*[None] * 6, "tenant", ""]),
            )

    def pick_aborts(self, request_ids: list[str]) -> list[str]:
        return [request_id for request_id in request_ids if self.rng.random() < 0.01]

    def _prompt(self) -> list[int]:
        longest = self.config.max_model_len - 1
        size = self.config.kv_cache.block_size
        base = self.rng.choice(self.prompts) if self.prompts and self.rng.random() < 0.7 else []
        cut = self.rng.choice([len(base), self.rng.randint(0, len(base))])
        more = self.rng.choice([0, size, self.rng.randint(0, longest)])
        prompt = base[:cut] + [self.rng.randrange(1, 1000) for _ in range(more)]
        return prompt[:longest] or [1]


def sample(token_ids: Sequence[int]) -> int:
    """The next token: the same for equal sequences, whoever schedules them."""
    return (sum(token_ids[-3:]) + len(token_ids)) * 7919 % 31 % VOCABULARY


class RealEngine:
    """vLLM's scheduler and KV-cache manager, with `sample` for a model."""

    def __init__(self, config: SchedulerConfig, vllm_config: Any) -> None:
        import torch
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler
        from vllm.v1.kv_cache_interface import (
            FullAttentionSpec,
            KVCacheConfig,
            KVCacheGroupSpec,
            SlidingWindowSpec,
        )
        from vllm.v1.structured_output import StructuredOutputManager

        cache = config.kv_cache
        vllm_config.scheduler_config.max_num_seqs = config.max_num_seqs
        vllm_config.scheduler_config.max_num_batched_tokens = config.max_num_batched_tokens
        vllm_config.model_config.max_model_len = config.max_model_len
        vllm_config.cache_config.num_gpu_blocks = cache.num_blocks
        vllm_config.cache_config.block_size = cache.block_size
        shape: dict[str, Any] = {
            "block_size": cache.block_size, "num_kv_heads": 1, "head_size": 1,
            "dtype": torch.float32,
        }  # fmt: skip
        window = cache.sliding_window
        spec = (
            FullAttentionSpec(**shape)
            if window is None
            else SlidingWindowSpec(**shape, sliding_window=window, dcp_sharded=False)
        )
        self.scheduler = VllmScheduler(
            vllm_config=vllm_config,
            kv_cache_config=KVCacheConfig(
                num_blocks=cache.num_blocks,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
                prefix_cache_retention_interval=(
                    vllm_config.cache_config.prefix_cache_retention_interval
                ),
            ),
            structured_output_manager=StructuredOutputManager(vllm_config),
            block_size=cache.block_size,
            log_stats=True,
        )
        self.manager = self.scheduler.kv_cache_manager
        self.manager.block_pool.enable_kv_cache_events = True
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(cache.block_size, sha256)
        self.num_query_tokens = 0
        self.num_hit_tokens = 0
        self.cache_uses: dict[str, tuple[int, int]] = {}
        """Prompt tokens that were cached, and further ones that are, by request."""

    def add(self, arrival: Arrival) -> None:
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request as VllmRequest

        name = arrival.lora_name
        self.scheduler.add_request(
            VllmRequest(
                request_id=arrival.request_id,
                prompt_token_ids=arrival.prompt,
                sampling_params=SamplingParams(
                    max_tokens=arrival.max_tokens, stop_token_ids=[STOP_TOKEN]
                ),
                pooling_params=None,
                lora_request=LoRARequest(name, 1, "/lora") if name else None,
                cache_salt=arrival.cache_salt,
                block_hasher=self._hasher,
            )
        )

    def abort(self, request_id: str) -> None:
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)

    def commit(self, output: Any) -> list[tuple[str, int, bool]]:
        """Request, token and whether it was the last, for each token of the step."""
        from vllm.v1.outputs import ModelRunnerOutput

        request_ids = list(output.num_scheduled_tokens)
        sampled = [self._sample(request_id) for request_id in request_ids]
        outputs = self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=request_ids,
                req_id_to_index={request_id: i for i, request_id in enumerate(request_ids)},
                sampled_token_ids=sampled,
            ),
        )
        stats = outputs[0].scheduler_stats.prefix_cache_stats
        self.num_query_tokens += stats.queries
        self.num_hit_tokens += stats.hits
        for one in outputs[0].outputs:
            if one.prefill_stats is not None:
                self.cache_uses[one.request_id] = (
                    one.prefill_stats.num_cached_tokens,
                    one.prefill_stats.num_cache_creation_tokens,
                )
        return [
            (one.request_id, one.new_token_ids[0], one.finish_reason is not None)
            for one in outputs[0].outputs
        ]

    def _sample(self, request_id: str) -> list[int]:
        request = self.scheduler.requests.get(request_id)
        if request is None or request.is_prefill_chunk:
            return []
        return [sample(list(request.all_token_ids))]


class Comparison:
    """Both engines under one workload."""

    def __init__(self, workload: Workload, vllm_config: Any) -> None:
        self.workload = workload
        self.real = RealEngine(workload.config, vllm_config)
        self.ours = Scheduler(workload.config)
        self.seen: Counter[str] = Counter()
        self.cache_uses: dict[str, tuple[int, int]] = {}
        self._our_hash_of: dict[Any, bytes] = {}

    def run(self) -> None:
        """Raises `AssertionError` at the first disagreement."""
        for step in range(NUM_STEPS):
            if step < NUM_STEPS * 2 // 3:
                for arrival in self.workload.arrivals():
                    self._add(arrival)
            self._abort_some()
            output, plan = self.real.scheduler.schedule(), self.ours.schedule()
            self._check_plan(output, plan)
            self._check_state()
            self._check_events()
            if step % 5 == 0:
                self._abort_some()
            self._check_commit(output, plan)
            self._check_state()
        assert self.real.cache_uses == self.cache_uses
        cache = self.ours.kv_cache
        assert self.real.num_query_tokens == cache.num_query_tokens
        assert self.real.num_hit_tokens == cache.num_hit_tokens
        self.seen["hit tokens"] += cache.num_hit_tokens

    def _add(self, arrival: Arrival) -> None:
        self.real.add(arrival)
        self.ours.add(
            Request(
                arrival.request_id,
                arrival.prompt,
                max_tokens=arrival.max_tokens,
                stop_token_ids=[STOP_TOKEN],
                lora_name=arrival.lora_name,
                cache_salt=arrival.cache_salt,
            )
        )

    def _abort_some(self) -> None:
        unfinished = [request.request_id for request in (*self.ours.running, *self.ours.waiting)]
        for request_id in self.workload.pick_aborts(unfinished):
            self.real.abort(request_id)
            self.ours.abort(request_id)
            self.seen["aborts"] += 1

    def _check_plan(self, output: Any, plan: StepPlan) -> None:
        ours = {request.request_id: num_tokens for request, num_tokens in plan.scheduled.items()}
        assert list(output.num_scheduled_tokens.items()) == list(ours.items())
        assert sum(ours.values()) == plan.num_prefill_tokens + plan.num_decodes
        self.seen["preemptions"] += len(plan.preempted)
        self.seen["scheduled tokens"] += sum(ours.values())

    def _check_state(self) -> None:
        real, ours, pool = self.real.scheduler, self.ours, self.real.manager.block_pool
        assert [r.request_id for r in real.running] == [r.request_id for r in ours.running]
        assert [r.request_id for r in real.waiting] == [r.request_id for r in ours.waiting]
        assert [r.num_preemptions for r in real.running] == [
            r.num_preemptions for r in ours.running
        ]
        free = [block.block_id for block in pool.free_block_queue.get_all_free_blocks()]
        assert free == ours.kv_cache.free_blocks
        assert pool.get_num_free_blocks() == ours.kv_cache.num_free
        assert pool.get_usage() == ours.kv_cache.usage
        for request in (*ours.running, *ours.waiting):
            theirs = real.requests[request.request_id]
            (block_ids,) = self.real.manager.get_block_ids(request.request_id)
            assert block_ids == request.block_ids
            assert list(theirs.all_token_ids) == request.token_ids.tolist()
            assert theirs.num_computed_tokens == request.num_computed_tokens
            self.seen["null blocks"] += block_ids.count(0)
        assert sum(len(r.token_ids) for r in ours.waiting) == ours.num_waiting_tokens

    def _check_events(self) -> None:
        real, ours = self.real.manager.take_events(), self.ours.kv_cache.drain_events()
        assert len(real) == len(ours)
        for theirs, event in zip(real, ours, strict=True):
            self._check_event(theirs, event)
            self.seen[type(event).__name__] += 1

    def _check_event(self, theirs: Any, event: KvEvent) -> None:
        assert type(theirs).__name__ == type(event).__name__
        if isinstance(event, BlockRemoved):
            self._check_hashes(theirs.block_hashes, [event.block_hash])
            return
        assert isinstance(event, BlockStored)
        self._check_hashes(theirs.block_hashes, event.block_hashes)
        assert (theirs.parent_block_hash is None) == (event.parent_hash is None)
        self._check_hashes([theirs.parent_block_hash], [event.parent_hash])
        assert list(theirs.token_ids) == list(event.token_ids)
        assert theirs.lora_name == event.lora_name
        assert (theirs.extra_keys or []) == list(event.extra_keys)

    def _check_hashes(self, theirs: Any, ours: Any) -> None:
        """Ours are other hashes, but equal exactly when vLLM's are."""
        assert len(theirs) == len(ours)
        for one, other in zip(theirs, ours, strict=True):
            assert self._our_hash_of.setdefault(one, other) == other
        assert len(set(self._our_hash_of.values())) == len(self._our_hash_of)

    def _check_commit(self, output: Any, plan: StepPlan) -> None:
        generated = self.ours.commit(plan, sample=lambda request: sample(request.token_ids))
        ours = [(request.request_id, token, request.is_finished) for request, token in generated]
        assert self.real.commit(output) == ours
        for request, _ in generated:
            use = (request.num_cached_tokens, request.num_created_tokens)
            self.cache_uses.setdefault(request.request_id, use)
            self.seen["finished"] += request.is_finished


def vllm_settings(folder: Path) -> Any:
    """vLLM's defaults around a model of which only the shape exists."""
    from vllm.config import CacheConfig, DeviceConfig, ModelConfig, VllmConfig
    from vllm.config import SchedulerConfig as VllmSchedulerConfig

    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16,
                "intermediate_size": 16, "num_attention_heads": 1, "num_hidden_layers": 1,
                "vocab_size": 32, "max_position_embeddings": 4096,
            }
        )
    )  # fmt: skip
    return VllmConfig(
        model_config=ModelConfig(
            model=str(folder), tokenizer=str(folder), skip_tokenizer_init=True, max_model_len=4096
        ),
        scheduler_config=VllmSchedulerConfig(
            max_model_len=4096, is_encoder_decoder=False, async_scheduling=False
        ),
        cache_config=CacheConfig(block_size=16, enable_prefix_caching=True),
        device_config=DeviceConfig("cpu"),
    )


def main(folder: str, num_seeds: int) -> None:
    """Compare under each seed; print what was seen, or where the first disagreement is."""
    import traceback

    settings = vllm_settings(Path(folder))
    report: dict[str, Any] = {}
    for kind in WINDOWS:
        seen: Counter[str] = Counter()
        failures = []
        for seed in range(num_seeds):
            comparison = Comparison(Workload.from_seed(kind, seed), settings)
            try:
                comparison.run()
            except Exception:
                config = comparison.workload.config
                failures.append(f"seed {seed}, {config}\n{traceback.format_exc()}")
            seen += comparison.seen
        report[kind] = {"seen": seen, "failures": failures}
    print("RESULT" + json.dumps(report))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed, so there is nothing to compare the simulator with")
    folder = tmp_path_factory.mktemp("model")
    result = subprocess.run(
        [sys.executable, __file__, str(folder), str(NUM_SEEDS)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, result.stderr[-4000:]
    parsed: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT"))
    return parsed


@pytest.mark.parametrize("kind", WINDOWS)
def test_every_step_is_vllms(report: dict[str, Any], kind: str) -> None:
    assert not report[kind]["failures"], report[kind]["failures"][0]


@pytest.mark.parametrize("kind", WINDOWS)
def test_the_workloads_reach_what_is_hard(report: dict[str, Any], kind: str) -> None:
    seen = report[kind]["seen"]
    hard = {"preemptions", "aborts", "finished", "hit tokens", "BlockStored", "BlockRemoved"}
    assert not hard - seen.keys()
    assert ("null blocks" in seen) == (kind == "window")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
