"""A fleet of simulated engines: changed, shrunk and overloaded under load, it drops nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from e2e.harness import Platform, wait_until

MODEL = "sim"
CHAT = "/v1/chat/completions"
NUM_ENGINES = 2
NUM_GATEWAYS = 2
ENGINE_LIMIT = 40
QUEUE_TIMEOUT_S = 2
STREAM_S = 4.0
"""How long one stream of `STREAM_TOKENS` tokens takes."""
STREAM_TOKENS = 80
LEAK_BOUND_S = 5.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two simulated replicas behind two gateways."""
    settings = (
        f"gateway.replicas={NUM_GATEWAYS}",
        f"gateway.queue_timeout_s={QUEUE_TIMEOUT_S}",
        f"models.{MODEL}.replicas={NUM_ENGINES}",
        f"models.{MODEL}.max_concurrent_requests={ENGINE_LIMIT}",
        f"models.{MODEL}.simulator.timing.step_s={STREAM_S / STREAM_TOKENS}",
        f"models.{MODEL}.simulator.start_s=0",
    )
    running = Platform.start(tmp_path_factory.mktemp("fleet") / "state", "sim", settings)
    try:
        running.note_processes()
        yield running
    finally:
        running.stop()


@pytest.fixture(autouse=True)
def _idle(fleet: Platform) -> Iterator[None]:
    yield
    wait_until(lambda: in_flight(fleet) == 0, timeout_s=30, what="idle after the test")


def in_flight(fleet: Platform) -> int:
    return sum(replica["state"]["in_flight"] for replica in fleet.engines(MODEL))


def held_by(fleet: Platform, urls: Sequence[str]) -> int:
    """What the engines themselves count; a gateway that dies cannot spoil the answer."""
    with fleet.anonymous(headers={"x-galerne-token": fleet.internal_token}) as client:
        return sum(client.get(f"{url}/galerne/state").json()["in_flight"] for url in urls)


def request(**options: Any) -> dict[str, Any]:
    message = {"role": "user", "content": f"Tell me about ship {time.monotonic_ns()}."}
    length = {"max_tokens": STREAM_TOKENS, "ignore_eos": True}
    return {"model": MODEL, "messages": [message], "stream": True, **length, **options}


@dataclass
class Outcomes:
    """How requests ended."""

    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    retry_after: list[int] = field(default_factory=list)


@dataclass
class Load:
    """A client that keeps connections of its own, so that a broken one is seen."""

    session: aiohttp.ClientSession
    outcomes: Outcomes = field(default_factory=Outcomes)

    async def stream(self, **options: Any) -> None:
        """One whole stream, counted by how it ended."""
        try:
            async with self.session.post(CHAT, json=request(**options)) as answer:
                self.outcomes.statuses[answer.status] += 1
                if "retry-after" in answer.headers:
                    self.outcomes.retry_after.append(int(answer.headers["retry-after"]))
                text = (await answer.read()).decode()
        except (aiohttp.ClientError, ConnectionError) as error:
            self.outcomes.broken.append(repr(error))
            return
        if answer.status == 200 and not is_whole(text):
            self.outcomes.broken.append(text[-200:])


def is_whole(text: str) -> bool:
    """Whether a stream has every token and its end."""
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return False
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    return sum(1 for delta in deltas if delta.get("content")) >= STREAM_TOKENS


@asynccontextmanager
async def load_on(fleet: Platform) -> AsyncIterator[Load]:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
        fleet.endpoint, headers=fleet.authorization, connector=connector
    ) as session:
        yield Load(session)


@asynccontextmanager
async def steady(load: Load, *, per_second: float) -> AsyncIterator[None]:
    """Open-loop arrivals while the context is open; their answers are awaited at its end."""
    streams: list[asyncio.Task[None]] = []

    async def arrive() -> None:
        while True:
            streams.append(asyncio.create_task(load.stream()))
            await asyncio.sleep(1 / per_second)

    arrivals = asyncio.create_task(arrive())
    try:
        yield
    finally:
        arrivals.cancel()
        with suppress(asyncio.CancelledError):
            await arrivals
        await asyncio.gather(*streams)


def apply(fleet: Platform, *settings: str) -> str:
    words = [word for setting in settings for word in ("--set", setting)]
    done = fleet.run("apply", *words, timeout_s=120)
    assert done.returncode == 0, done.stderr
    fleet.note_processes()
    return str(done.stderr)


async def test_rolling_update_under_load_loses_nothing(fleet: Platform) -> None:
    """Gateways and engines are all replaced while streams run that outlive the change."""
    engines = {replica["pid"] for replica in fleet.engines(MODEL)}
    gateways = {gateway["pid"] for gateway in fleet.status()["gateways"]}
    async with load_on(fleet) as load, steady(load, per_second=6):
        await asyncio.sleep(STREAM_S / 2)
        await asyncio.to_thread(apply, fleet, f"models.{MODEL}.simulator.seed=1")
        await asyncio.sleep(STREAM_S)
    print(load.outcomes.statuses)
    assert not load.outcomes.broken
    assert set(load.outcomes.statuses) == {200}
    assert not engines & {replica["pid"] for replica in fleet.engines(MODEL)}
    assert not gateways & {gateway["pid"] for gateway in fleet.status()["gateways"]}


async def test_scaling_down_and_up_under_load_loses_nothing(fleet: Platform) -> None:
    """The replica that goes finishes its streams; the one that stays is not restarted."""
    before = {replica["pid"] for replica in fleet.engines(MODEL)}
    async with load_on(fleet) as load, steady(load, per_second=4):
        await asyncio.sleep(STREAM_S / 2)
        await asyncio.to_thread(apply, fleet, f"models.{MODEL}.replicas=1")
        (left,) = {replica["pid"] for replica in fleet.engines(MODEL)}
        await asyncio.sleep(STREAM_S)
        await asyncio.to_thread(apply, fleet, f"models.{MODEL}.replicas={NUM_ENGINES}")
    print(load.outcomes.statuses)
    assert left in before
    assert not load.outcomes.broken
    assert set(load.outcomes.statuses) == {200}


async def test_a_model_comes_and_goes_beside_another(fleet: Platform, tmp_path: Path) -> None:
    """The other's engines stay the same processes, and its streams whole."""
    engines = {engine["pid"] for engine in fleet.engines(MODEL)}
    before = json.loads((fleet.state_dir / "settings.json").read_text())
    more = before | {"models": {**before["models"], "later": before["models"][MODEL]}}
    async with load_on(fleet) as load, steady(load, per_second=2):
        for number, settings in enumerate((more, before)):
            file = tmp_path / f"{number}.json"
            file.write_text(json.dumps(settings))
            applied = await asyncio.to_thread(
                fleet.run, "apply", "--config", str(file), timeout_s=90
            )
            assert applied.returncode == 0, applied.stderr
            models = {model["id"] for model in fleet.status()["models"]}
            assert models == settings["models"].keys()
    assert set(load.outcomes.statuses) == {200}
    assert load.outcomes.broken == []
    assert {engine["pid"] for engine in fleet.engines(MODEL)} == engines


async def test_overload_is_queued_then_refused_with_a_time(fleet: Platform) -> None:
    """Twice the fleet's room: what is accepted is answered in full, the rest gets 429."""
    room = NUM_ENGINES * ENGINE_LIMIT
    async with load_on(fleet) as load:
        await asyncio.gather(*(load.stream() for _ in range(2 * room)))
    outcomes = load.outcomes
    print(outcomes.statuses, Counter(outcomes.retry_after))
    assert not outcomes.broken
    assert set(outcomes.statuses) == {200, 429}
    assert outcomes.statuses[200] >= room
    assert len(outcomes.retry_after) == outcomes.statuses[429]
    assert all(1 <= seconds <= 60 for seconds in outcomes.retry_after)


async def test_short_overload_is_absorbed_by_the_queue(fleet: Platform) -> None:
    room = NUM_ENGINES * ENGINE_LIMIT
    async with load_on(fleet) as load:
        short = (load.stream(max_tokens=10) for _ in range(2 * room))
        await asyncio.gather(*short)
    assert load.outcomes.statuses == {200: 2 * room}


def settled_gateways(fleet: Platform) -> list[int]:
    """The processes of all gateways, once those are up and what they replace is gone."""
    found: list[dict[str, Any]] = wait_until(
        lambda: all_running(fleet.status()["gateways"]), timeout_s=60, what="all gateways, alone"
    )
    return [gateway["pid"] for gateway in found]


def all_running(gateways: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The gateways, or none if others run than should."""
    states = [gateway["state"] for gateway in gateways]
    return gateways if states == ["RUNNING"] * NUM_GATEWAYS else []


async def test_a_killed_gateway_leaks_no_capacity(fleet: Platform) -> None:
    """Its streams end, their generation too, and the engines take as much as before."""
    victim = settled_gateways(fleet)[0]
    urls = [replica["url"] for replica in fleet.engines(MODEL)]
    async with load_on(fleet) as load:
        streams = [asyncio.create_task(load.stream(max_tokens=4000)) for _ in range(60)]
        await asyncio.to_thread(
            wait_until, lambda: held_by(fleet, urls) == 60, timeout_s=30, what="60 streams"
        )
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(
            wait_until,
            lambda: held_by(fleet, urls) < 60,
            timeout_s=LEAK_BOUND_S,
            what="the end of its streams",
        )
        await asyncio.sleep(1)
        broken = len(load.outcomes.broken)
        assert 0 < broken < 60
        assert held_by(fleet, urls) == 60 - broken
        for stream in streams:
            stream.cancel()
        await asyncio.wait(streams)
    fleet.note_processes()
    settled_gateways(fleet)


async def test_a_stream_beyond_the_drain_limit_is_told(fleet: Platform) -> None:
    apply(fleet, f"models.{MODEL}.drain_timeout_s=3")
    async with load_on(fleet) as load:
        async with load.session.post(CHAT, json=request(max_tokens=4000)) as answer:
            await answer.content.readany()
            change = f"models.{MODEL}.simulator.seed=2"
            applied = asyncio.create_task(asyncio.to_thread(apply, fleet, change))
            text = (await answer.read()).decode()
        await applied
    *_, last = (line[6:] for line in text.splitlines() if line.startswith("data: "))
    assert json.loads(last)["error"]["code"] == "engine_failed"


async def test_settings_that_do_not_come_up_cost_no_request(fleet: Platform) -> None:
    """The old replicas go on serving, the reason is told, also by the status, and good settings
    mend it."""
    before = {replica["pid"] for replica in fleet.engines(MODEL)}
    async with load_on(fleet) as load, steady(load, per_second=2):
        change = f"models.{MODEL}.simulator.kv_blocks=20"
        failed = await asyncio.to_thread(fleet.run, "apply", "--set", change, timeout_s=120)
        assert failed.returncode == 2, failed.stderr
        assert "KV blocks, and there are 20" in failed.stderr
        assert before <= {replica["pid"] for replica in fleet.engines(MODEL)}
        model = fleet.model_status(MODEL)
        assert model["status"] == "DEPLOY_FAILED"
        assert "KV blocks, and there are 20" in model["message"]
        shown = await asyncio.to_thread(fleet.run, "status")
        assert "KV blocks, and there are 20" in shown.stdout
        await asyncio.to_thread(apply, fleet, f"models.{MODEL}.simulator.kv_blocks=28000")
        assert fleet.model_status(MODEL)["message"] == ""
    assert not load.outcomes.broken
    assert set(load.outcomes.statuses) == {200}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("endpoint.port=1", "endpoint cannot be changed"),
        (f"models.{MODEL}.simulator.timing.prefill_tokens_per_s=0", "greater than 0"),
        (f"models.{MODEL}.simulator.timing.speed=9", "speed"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(
    fleet: Platform, change: str, complaint: str
) -> None:
    refused = fleet.run("apply", "--set", change)
    assert refused.returncode == 2
    assert complaint in refused.stderr
    assert "hint" in refused.stderr
