"""What the prefix index foretells is what vLLM then reports, request by request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import pytest

from e2e.harness import MODEL, Platform, wait_until
from e2e.lora import ADAPTER, write_adapter
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import resolve_weights
from serving.core.types import ReplicaId
from serving.engine.arguments import engine_arguments, engine_environment
from serving.engine.vllm_shim import KvEventSource, VllmEngine, start_engine
from serving.planner.placement import plan_placement
from serving.routing.block_hashing import BlockHasher
from serving.routing.prefix_index import CacheGroup, PrefixIndex
from serving.settings.model import ModelSettings
from serving.settings.weights import WeightSettings

pytestmark = pytest.mark.filterwarnings("default")  # of vLLM, in this process
REPLICA = ReplicaId("real")
SECRET = b"secret"
SETTLE_S = 10.0
NUM_REQUESTS = 30
TOKENS = range(1000, 20_000)


class Indexed:
    """A real engine and an index of what it says it has cached."""

    def __init__(self, engine: VllmEngine) -> None:
        self.engine = engine
        self.num_removed = 0
        self.hasher = BlockHasher(SECRET, block_size=engine.layout.block_size)
        groups = [CacheGroup(window) for window in engine.layout.window_blocks]
        self._index = PrefixIndex(groups, max_entries=100_000)
        transport = httpx.ASGITransport(engine.app)  # type: ignore[arg-type]  # as starlette has it
        self._client = httpx.AsyncClient(transport=transport, base_url="http://e", timeout=120)
        self._computed: list[int] = []  # names of the last request's blocks

    async def follow(self) -> None:
        """Take the engine's events until the last request's blocks are all there, which may be
        after its answer, and then until there are none for a while."""
        num_quiet = 0
        async with asyncio.timeout(SETTLE_S):
            while num_quiet < 3:
                change = self.engine.cache_change()
                for group, names in change.removed.items():
                    self._index.remove(REPLICA, names, group=group)
                    self.num_removed += len(names)
                for group, names in change.stored.items():
                    self._index.store(REPLICA, names, group=group)
                is_behind = self._num_hits(self._computed) < len(self._computed)
                num_quiet = 0 if change or is_behind else num_quiet + 1
                await self._client.get("/health")  # a question to the engine, for a clock

    def predicted(self, prompt: list[int], *, salt: str, lora: str | None) -> int:
        return self._num_hits(self._names(prompt, salt, lora)) * self.hasher.block_size

    def _names(self, tokens: list[int], salt: str, lora: str | None) -> list[int]:
        """Of the blocks that all but the last token fill: it has not been computed."""
        root = self.hasher.root(cache_salt=salt, lora_name=lora)
        names: list[int] = self.hasher.names(np.array(tokens[:-1]), parent=root).tolist()
        return names

    def _num_hits(self, names: list[int]) -> int:
        return self._index.hits(names).get(REPLICA, 0)

    async def cached_tokens(
        self, prompt: list[int], *, salt: str, lora: str | None, num_tokens: int
    ) -> int:
        body = {
            "model": lora or MODEL, "prompt": prompt, "max_tokens": num_tokens, "ignore_eos": True,
            "cache_salt": salt, "return_token_ids": True,
        }  # fmt: skip
        answer = await self._client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        document = answer.json()
        self._computed = self._names(prompt + document["choices"][0]["token_ids"], salt, lora)
        details = document["usage"]["prompt_tokens_details"] or {}
        return int(details.get("cached_tokens") or 0)

    async def close(self) -> None:
        await self._client.aclose()
        self.engine.shutdown()


@pytest.fixture(params=["window", "full"])
async def indexed(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Indexed]:
    """The demo model, as it is and with full attention, with room for 35 blocks."""
    demo = resolve_weights(WeightSettings(source="demo"), StatePaths.from_environment())
    folder = demo if request.param == "window" else with_full_attention(demo, tmp_path / "full")
    model = ModelSettings.model_validate(
        {
            "weights": {"source": str(folder)},
            "adapters": {ADAPTER: str(write_adapter(tmp_path / "adapter"))},
            # Threads that compute: nothing else is to be done meanwhile.
            "resources": {"device": "cpu", "num_cpus": 2},
            "engine": {
                "kv_cache_gib": 0.1, "max_model_len": 2048, "max_num_batched_tokens": 256,
                "enforce_eager": True,
            },
        }
    )  # fmt: skip
    for name, value in engine_environment(model.resources, num_cores=2).items():
        monkeypatch.setenv(name, value)
    endpoint = f"ipc://{tmp_path}/events"
    arguments = engine_arguments(
        MODEL,
        model,
        weights=folder,
        placement=plan_placement(model.engine, resources=model.resources),
        kv_events=endpoint,
    )
    paths = {name: str(path) for name, path in model.adapters.items()}
    source = KvEventSource(endpoint, SECRET, paths)
    running = Indexed(await start_engine(arguments, hang_timeout_s=120, events=source))
    yield running
    await running.close()


def with_full_attention(demo: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in demo.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((demo / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": None}))
    return folder


@pytest.mark.timeout(600)
async def test_every_hit_is_foretold(indexed: Indexed) -> None:
    """Prompts share beginnings, end in the middle of blocks, and push each other out."""
    rng = Random(1)
    known = [rng.choices(TOKENS, k=length) for length in (150, 300, 700, 1300)]
    wrong, hits = [], 0
    for number in range(NUM_REQUESTS):
        start = rng.choice(known)
        prompt = start[: rng.choice([len(start), len(start), len(start) // 2])]
        prompt = prompt + rng.choices(TOKENS, k=rng.choice([0, 5, 200]))
        scope: dict[str, Any] = {
            "salt": rng.choice(["one", "one", "two"]),
            # The CPU kernels of LoRA read 80 tokens/s.
            "lora": rng.choice([None, ADAPTER]) if len(prompt) < 200 else None,
        }
        await indexed.follow()
        predicted = indexed.predicted(prompt, **scope)
        found = await indexed.cached_tokens(prompt, num_tokens=rng.choice([1, 12]), **scope)
        hits += found > 0
        if found != predicted:
            wrong.append((number, len(prompt), scope, predicted, found))
        if number % 6 == 5:
            known.append(prompt)
    print(f"{hits} of {NUM_REQUESTS} requests had a hit")
    assert not wrong
    assert indexed.num_removed
    assert 2 < hits < NUM_REQUESTS


def test_the_gateway_foretells_the_hits_of_chats(platform: Platform) -> None:
    """Through the chat template and the tenant's salt, under the demo model's sliding window."""
    name = "prediction"
    story = "The sea carries every ship that the wind has left behind. " * 120
    key = platform.create_key(name)
    with platform.anonymous(headers={"authorization": f"Bearer {key}"}) as client:
        assert ask(client, story) == 0
        shown = wait_until(lambda: foretold(platform, story, name), timeout_s=SETTLE_S)
        assert ask(client, story) == shown > 512
        longer = f"{story} And what does the sea do with them?"
        shown = wait_until(lambda: foretold(platform, longer, name), timeout_s=SETTLE_S)
        assert ask(client, longer) == shown


def ask(client: httpx.Client, prompt: str) -> int:
    """Cached tokens of a chat's prompt."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 2}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    details = answer.json()["usage"]["prompt_tokens_details"] or {}
    return int(details.get("cached_tokens") or 0)


def foretold(platform: Platform, prompt: str, key: str) -> int:
    shown = platform.run("route", "--model", MODEL, "--prompt", prompt, "--key", key, "--json")
    assert shown.returncode == 0, shown.stderr
    (candidate,) = json.loads(shown.stdout)["candidates"]
    return int(candidate["predicted_hit_tokens"])
