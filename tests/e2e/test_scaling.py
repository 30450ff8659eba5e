"""A platform scales with its load, by what a real Prometheus finds, and nobody notices."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from monitoring_queries import raw_metric_names
from prometheus_client.parser import text_string_to_metric_families
from prometheus_tools import Prometheus, running_prometheus

from e2e.harness import Platform, wait_until
from loadtest.processes import free_port
from serving.metrics_catalog import catalog

MODEL = "sim"
ALONE = "alone"
COLD_START_S = 6
STEP_S = 0.2
SEQUENCES = 8
"""A replica gives each of so many streams a token per step."""
LOAD_STEP = SEQUENCES * 3 // 2
LOAD_BURST = 4 * SEQUENCES
"""Clients that come to stay, and those that come on top of them for a while."""
STREAM_TOKENS = 20
MOST = 4
SCALED_WITHIN_S = 120
IDLE_S = 5
"""As often as the autoscaler decides."""
PROMETHEUS_OWN = {"up", "ALERTS", "ALERTS_FOR_STATE"}
"""Series of rules and dashboards that Prometheus makes by itself."""

SETTINGS = (
    "gateway.replicas=2",
    f"models.{MODEL}.simulator.start_s={COLD_START_S}",
    f"models.{MODEL}.simulator.timing={{step_s: {STEP_S}, decode_s_per_sequence: 0.0001}}",
    f"models.{MODEL}.engine.max_num_seqs={SEQUENCES}",
    f"models.{MODEL}.slo={{ttft_s: 5, itl_s: 1}}",
    f"models.{MODEL}.scaling={{max_replicas: {MOST}, cold_start_s: 10}}",
    f"models.{ALONE}.simulator={{start_s: 1}}",
    f"models.{ALONE}.resources={{device: cpu, num_cpus: 0}}",
    f"models.{ALONE}.scaling={{min_replicas: 0, max_replicas: 1, idle_s: {IDLE_S}}}",
)


@dataclass
class Scaled:
    """A platform and the Prometheus that watches it."""

    platform: Platform
    prometheus: Prometheus
    watching: ExitStack

    def scaling(self, model: str = MODEL) -> dict[str, Any]:
        """Empty while a controller has only just started and decided nothing."""
        found: dict[str, Any] | None = self.platform.model_status(model)["scaling"]
        return found or {}

    def is_at(self, *replicas: int, model: str = MODEL) -> bool:
        scaling = self.scaling(model)
        current = scaling.get("current")
        return current == scaling.get("desired") and current in replicas


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scaled]:
    port = free_port()
    folder: Path = tmp_path_factory.mktemp("scaling")
    settings = (*SETTINGS, f"autoscaler.prometheus_url=http://127.0.0.1:{port}")
    platform = Platform.start(folder / "state", "sim", settings)
    try:
        platform.note_processes()
        config = folder / "prometheus.yml"
        config.write_text(platform.run("metrics", "config").stdout)
        with ExitStack() as watching:
            prometheus = watching.enter_context(running_prometheus(config, port=port))
            yield Scaled(platform, prometheus, watching)
    finally:
        platform.stop()


@dataclass
class Users:
    """Clients that each ask again as soon as they are answered."""

    session: aiohttp.ClientSession
    num_whole: int = 0
    broken: list[str] = field(default_factory=list)
    is_over: bool = False

    async def run(self) -> None:
        while not self.is_over:
            await self.ask()

    async def ask(self, model: str = MODEL) -> None:
        """One stream, counted as whole or kept as broken."""
        message = {"role": "user", "content": f"Tell me about ship {time.monotonic_ns()}."}
        length = {"max_tokens": STREAM_TOKENS, "ignore_eos": True}
        body = {"model": model, "messages": [message], "stream": True, **length}
        try:
            async with self.session.post("/v1/chat/completions", json=body) as answer:
                text = (await answer.read()).decode()
        except (aiohttp.ClientError, ConnectionError) as error:
            self.broken.append(repr(error))
            return
        if answer.status == 200 and text.count('"content"') >= STREAM_TOKENS and "[DONE]" in text:
            self.num_whole += 1
        else:
            self.broken.append(f"{answer.status} {text[-300:]}")


@asynccontextmanager
async def users(platform: Platform, number: int) -> AsyncIterator[Users]:
    """So many clients while the context is open; their last answers are awaited at its end."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        platform.endpoint, headers=platform.authorization, connector=connector
    ) as session:
        crowd = Users(session)
        asking = [asyncio.create_task(crowd.run()) for _ in range(number)]
        try:
            yield crowd
        finally:
            crowd.is_over = True
            await asyncio.gather(*asking)


async def until(
    scaled: Scaled, *replicas: int, timeout_s: float = SCALED_WITHIN_S, model: str = MODEL
) -> None:
    """Waits until there are so many replicas, or one of those numbers."""
    begun = time.monotonic()
    what = f"{model} at {' or '.join(map(str, replicas))}"

    def wait() -> None:
        wait_until(
            lambda: scaled.is_at(*replicas, model=model),
            timeout_s=timeout_s,
            what=what,
            period_s=0.5,
        )

    await asyncio.to_thread(wait)
    print(f"{what} after {time.monotonic() - begun:.0f} s: {scaled.scaling(model)['reason']}")


def shown(scaled: Scaled) -> dict[str, set[str]]:
    """Names of all metrics by the component that shows them."""
    token = (scaled.platform.state_dir / "metrics-token").read_text().strip()
    found: defaultdict[str, set[str]] = defaultdict(set)
    for target in scaled.prometheus.targets():
        headers = {"authorization": f"Bearer {token}"}
        page = httpx.get(target["scrapeUrl"], headers=headers)
        assert page.status_code == 200
        for family in text_string_to_metric_families(page.text):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[target["labels"]["component"]].add(name)
    return found


def is_held(scaled: Scaled) -> bool:
    """Whether there are no figures; nothing changes then."""
    scaling = scaled.scaling()
    assert scaling["desired"] == MOST
    return str(scaling["reason"]).startswith("held")


def kill_controller(platform: Platform) -> None:
    """End Ray Serve's controller, and with it all that the autoscaler has learned."""
    platform.note_processes()
    names = {p: p.cmdline()[0] for p in platform.processes if p.is_running() and p.cmdline()}
    (controller,) = (p for p, name in names.items() if name.startswith("ray::ServeController"))
    controller.kill()
    controller.wait()


def value(scaled: Scaled, expression: str) -> float:
    return sum(number for _, number in scaled.prometheus.query(expression))


async def test_a_running_fleet_shows_the_metrics_of_the_docs(scaled: Scaled) -> None:
    def is_complete() -> bool:
        return shown(scaled).keys() == {"gateway", "engine", "autoscaler"}

    await asyncio.to_thread(wait_until, is_complete, timeout_s=60, what="all components scraped")
    found = shown(scaled)
    expected: defaultdict[str, set[str]] = defaultdict(set)
    for metric in catalog():
        expected[metric.component.partition(",")[0]].add(metric.name)
    for component, names in expected.items():
        assert names - found[component] == set(), component
        own = {name for name in found[component] if name.startswith("galerne_")}
        assert own - names == set(), component
    everything = set().union(*found.values())
    unknown = {name for name in raw_metric_names() if is_unknown(name, everything)}
    assert unknown == PROMETHEUS_OWN


def is_unknown(name: str, known: Collection[str]) -> bool:
    """Whether a query's series is of no metric; those of histograms have names of their own."""
    stems = {name, *(name.removesuffix(end) for end in ("_bucket", "_count", "_sum"))}
    return stems.isdisjoint(known)


async def test_replicas_come_with_the_load_and_go_with_it(scaled: Scaled) -> None:
    """A step, a burst on top of it and the end of both; Ray Serve's controller and Prometheus
    die in between, and users see nothing of any of it."""
    await until(scaled, 1)
    async with users(scaled.platform, LOAD_STEP) as stayed:
        await until(scaled, 2, 3)
        async with users(scaled.platform, LOAD_BURST) as came:
            await until(scaled, MOST)
            assert value(scaled, f'galerne_scaling_desired_replicas{{model="{MODEL}"}}') > 1
            ups = f'galerne_scaling_changes_total{{model="{MODEL}",direction="up"}}'
            assert value(scaled, ups) > 1

            # Only Prometheus may send the last replica away, and the next controller would have to
            # see it idle anew.
            await until(scaled, 0, model=ALONE)

            kill_controller(scaled.platform)
            await until(scaled, MOST)
            # A controller that never had figures would keep what it found a minute longer.
            await asyncio.to_thread(
                wait_until, lambda: not is_held(scaled), timeout_s=60, what="figures", period_s=0.5
            )

            scaled.watching.close()
            await asyncio.to_thread(
                wait_until, lambda: is_held(scaled), timeout_s=60, what="held", period_s=0.5
            )
    await until(scaled, 1, timeout_s=SCALED_WITHIN_S + 60)
    assert "own reports" in scaled.scaling()["reason"]
    assert stayed.broken + came.broken == []
    print(f"{stayed.num_whole + came.num_whole} streams")


async def test_a_model_nobody_uses_goes_and_a_request_wakes_it(scaled: Scaled) -> None:
    """It went while Prometheus told that it was idle; the request needs none."""
    await until(scaled, 0, model=ALONE)
    begun = time.monotonic()
    async with users(scaled.platform, 0) as nobody:
        await nobody.ask(ALONE)
        assert nobody.broken == []
    print(f"a model was woken and answered in {time.monotonic() - begun:.1f} s")
    assert scaled.is_at(1, ALONE)


def test_reasons_are_in_the_log(scaled: Scaled) -> None:
    logs = (scaled.platform.state_dir / "logs" / "ray" / "serve").glob("controller_*.log")
    text = "".join(path.read_text() for path in logs)
    assert f"scale {MODEL} from" in text
    assert "no scaling signals from Prometheus" in text


def test_status_says_what_is_wanted_and_why(scaled: Scaled) -> None:
    status = scaled.platform.run("status").stdout
    assert f"{MODEL}: 1 replica wanted, 1 ready: " in status
    document = json.loads(scaled.platform.run("status", "--json").stdout)
    rows = {model["id"]: model["scaling"] for model in document["models"]}
    assert rows[MODEL].keys() == {"desired", "current", "reason", "signals_age_s"}
