"""The platform on several nodes, as KubeRay runs it: nodes die, are cut off, and the head restarts.

Each node is a network namespace of this machine; `docs/several-nodes.md` says what was measured.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from e2e.crowd import Crowd, crowd
from e2e.harness import galerne, wait_until
from e2e.nodes import why_unavailable
from e2e.ray_nodes import RayNode, RayNodes, ray_nodes
from serving.adapters.secrets_file import read_secret
from serving.adapters.settings_loader import override_settings
from serving.adapters.state_paths import StatePaths
from serving.core.wire import INTERNAL_TOKEN
from serving.planner.serve_config import GATEWAY, engine_name, serve_config

T = TypeVar("T")

MODEL = "sim"
WORKERS = ("worker1", "worker2", "worker3")
POOL = "gpu"
GPUS_EACH = 2
"""A node's worth of engines fits onto the others."""
STEP_S = 0.1
STREAM_TOKENS = 40
USERS_EACH = 4
NUM_BEGUN = 20 * USERS_EACH
"""Pieces that clients have read when something happens to their streams."""
CUT_S = 17
"""Longer than it takes gateways to give up an engine that they do not hear."""
GATEWAY_PORTS = range(30_000, 31_000)
"""Where Serve lets them listen (ray 2.60.0, serve/_private/constants.py)."""
DEPLOYMENTS = (GATEWAY, engine_name(MODEL))
_SETTLED_WITHIN_S = 90

_ENGINES: dict[str, Any] = {
    "simulator": {"start_s": 0, "timing": {"step_s": STEP_S}},
    "resources": {"device": "gpu", "num_cpus": 0, "pool": POOL},
    "drain_timeout_s": 30,
}
DOCUMENT: dict[str, Any] = {
    "endpoint": {"host": "0.0.0.0"},
    "gateway": {"replicas": len(WORKERS), "max_per_node": 1, "pool": POOL},
    "models": {MODEL: _ENGINES},
}


@dataclass
class Fleet:
    """The platform on a running cluster."""

    cluster: RayNodes
    paths: StatePaths
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def declare(self, *, num_engines: int = len(WORKERS)) -> None:
        """Declare the platform with so many engines."""
        document = {**DOCUMENT, "models": {MODEL: {**_ENGINES, "replicas": num_engines}}}
        config = serve_config(document, settings_file=str(self.paths.settings_file))
        self.cluster.deploy(config)

    def replicas(self, deployment: str) -> list[dict[str, Any]]:
        """Running replicas of a deployment, as Serve describes them."""
        applications = self.cluster.serve_details().get("applications", {})
        found = (a["deployments"].get(deployment) for a in applications.values())
        return [r for d in found if d for r in d["replicas"] if r["state"] == "RUNNING"]

    def replica_ids(self) -> set[str]:
        return {r["replica_id"] for name in DEPLOYMENTS for r in self.replicas(name)}

    def running(self, deployment: str) -> Counter[str]:
        """How many replicas of a deployment run, by the address of their node."""
        return Counter(replica["node_ip"] for replica in self.replicas(deployment))

    def is_at(self, *, gateways: int, engines: int) -> bool:
        """Whether so many replicas run, each of them on a node that is alive."""
        found = self.running(GATEWAY), self.running(engine_name(MODEL))
        alive = set(self.cluster.nodes_alive().values())
        on_living = all(each.keys() <= alive for each in found)
        return on_living and tuple(each.total() for each in found) == (gateways, engines)

    def is_whole(self) -> bool:
        """Whether all is as declared at first, and every worker's endpoint has gateways."""
        number = len(WORKERS)
        return self.is_at(gateways=number, engines=number) and all(
            is_ready(worker) for worker in self.cluster.workers
        )

    def engines_seen_by(self, node: RayNode) -> list[tuple[str, int]]:
        """Address of its node and number of its requests, of each engine that a node's gateway
        hears."""
        headers = {INTERNAL_TOKEN.decode(): read_secret(self.paths.internal_token_file)}
        answer = httpx.get(f"{node.endpoint}/galerne/fleet", headers=headers, timeout=10)
        assert answer.status_code == 200, answer.text
        replicas = answer.json()["models"][MODEL]
        return [(httpx.URL(r["url"]).host, r["state"]["in_flight"]) for r in replicas if r["state"]]

    def all_see(self, num_engines: int) -> bool:
        """Whether every gateway hears so many engines."""
        return all(len(self.engines_seen_by(each)) == num_engines for each in self.cluster.workers)

    async def until(self, what: str, ask: Callable[[], T], *, since: float | None = None) -> T:
        """Waits, and prints how long that was since a moment of the monotonic clock, or now."""
        begun = time.monotonic() if since is None else since

        def wait() -> T:
            return wait_until(ask, timeout_s=_SETTLED_WITHIN_S, what=what, period_s=0.2)

        answer = await asyncio.to_thread(wait)
        print(f"{what} after {time.monotonic() - begun:.1f} s", flush=True)
        return answer

    async def until_busy(self, users: Crowd, node: RayNode) -> None:
        """Waits until each engine has streams of this node, some of them well begun."""
        await self.until(
            f"streams of {node.name} are in every engine",
            lambda: (
                all(number for _, number in self.engines_seen_by(node))
                and users.num_pieces > NUM_BEGUN
            ),
        )

    def workers_by_engines(self) -> list[RayNode]:
        """The workers, those with most engines first."""
        number = self.running(engine_name(MODEL))
        return sorted(self.cluster.workers, key=lambda worker: -number[worker.address])

    def crowd(self, *nodes: RayNode) -> Any:
        """Clients at the endpoints of these nodes."""
        return crowd(
            [node.endpoint for node in nodes],
            self.headers,
            size_each=USERS_EACH,
            model=MODEL,
            num_tokens=STREAM_TOKENS,
        )


def replica_listeners(node: RayNode) -> list[tuple[str, int]]:
    """Address and port of each listener of a node's gateways and engines."""
    lines = node.node.run("ss", "-ltnpH").splitlines()
    addresses = (line.split()[3].rpartition(":") for line in lines if "ray::ServeRepl" in line)
    return [(host, int(port)) for host, _, port in addresses]


def is_for_haproxy(host: str, port: int) -> bool:
    return host == "0.0.0.0" and port in GATEWAY_PORTS


def is_ready(node: RayNode) -> bool:
    """What KubeRay asks before it sends clients to a pod."""
    try:
        return httpx.get(f"{node.endpoint}/-/healthz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    if reason := why_unavailable():
        pytest.skip(reason)
    folder: Path = tmp_path_factory.mktemp("several")
    paths = StatePaths.of(folder, folder)
    created = galerne("keys", "create", "--name", "tests", "--json", state_dir=folder)
    key = json.loads(created.stdout)["key"]
    begun = time.monotonic()
    settings = override_settings(DOCUMENT, ())
    with ray_nodes(
        settings, paths, workers=WORKERS, worker_resources={f"pool:{POOL}": 1}, num_gpus=GPUS_EACH
    ) as cluster:
        print(f"{1 + len(WORKERS)} nodes up: {time.monotonic() - begun:.1f} s")
        started = Fleet(cluster, paths, key)
        try:
            started.declare()
            wait_until(
                started.is_whole,
                timeout_s=_SETTLED_WITHIN_S,
                what="the fleet",
                period_s=0.5,
            )
            print(f"declared and running: {time.monotonic() - begun:.1f} s")
            yield started
        finally:
            if request.session.testsfailed:
                print(cluster.log_tail())


async def settled(fleet: Fleet) -> None:
    """As declared, on every node."""
    await fleet.until("settled", fleet.is_whole)


async def test_every_workers_gateway_reaches_the_engines_of_all(fleet: Fleet) -> None:
    await settled(fleet)
    workers = fleet.cluster.workers
    engines = fleet.running(engine_name(MODEL))
    print(f"engines by node: {dict(engines)}")
    assert fleet.running(GATEWAY) == Counter(worker.address for worker in workers)
    assert len(engines) > 1, "engines are on one node"
    assert fleet.cluster.head.address not in engines
    for worker in workers:
        async with fleet.crowd(worker) as users:
            await fleet.until_busy(users, worker)
            assert {host for host, _ in fleet.engines_seen_by(worker)} == engines.keys()
        assert users.broken == []


async def test_replicas_listen_on_the_address_of_their_node(fleet: Fleet) -> None:
    """Two listeners are Ray's and on all addresses of a node: where HAProxy reaches a gateway, and
    the gRPC that Ray's token guards."""
    await settled(fleet)
    for worker in fleet.cluster.workers:
        listening = replica_listeners(worker)
        assert len([port for host, port in listening if is_for_haproxy(host, port)]) == 1
        own = {host for host, port in listening if host != "*" and not is_for_haproxy(host, port)}
        assert own == {worker.address}


async def test_no_stream_is_lost_with_a_node(fleet: Fleet) -> None:
    await settled(fleet)
    lost, *others = fleet.workers_by_engines()
    async with fleet.crowd(*others) as users:
        await fleet.until_busy(users, others[0])
        killed = time.monotonic()
        lost.kill()
        await fleet.until(
            "the others have all engines again",
            lambda: fleet.is_at(gateways=len(others), engines=len(WORKERS)),
            since=killed,
        )
        started = time.monotonic()
        lost.start()
        await fleet.until("the node is back", fleet.is_whole, since=started)
    tell(users)
    assert users.broken == []


async def test_streams_do_not_need_the_head(fleet: Fleet) -> None:
    await settled(fleet)
    head, workers = fleet.cluster.head, fleet.cluster.workers
    async with fleet.crowd(*workers) as users:
        await fleet.until_busy(users, workers[0])
        killed = time.monotonic()
        head.kill()
        whole_before = users.num_whole
        await fleet.until(
            "streams began and ended without the head",
            # The last of so many cannot have begun before.
            lambda: users.num_whole > whole_before + USERS_EACH * len(WORKERS),
            since=killed,
        )
        started = time.monotonic()
        head.start()
        await fleet.until(
            "Ray is back", lambda: len(fleet.cluster.nodes_alive()) == 4, since=started
        )
        await fleet.until("Serve is back", fleet.is_whole, since=started)
        fleet.declare(num_engines=4)
        await fleet.until("gateways have a fourth engine", lambda: fleet.all_see(4), since=started)
        fleet.declare()
        await fleet.until("it is gone", lambda: fleet.all_see(3), since=started)
    tell(users)
    assert users.broken == []


async def test_a_node_that_is_cut_off_comes_back(fleet: Fleet) -> None:
    await settled(fleet)
    cut, *others = fleet.workers_by_engines()
    replicas = fleet.replica_ids()
    async with fleet.crowd(*others) as users:
        await fleet.until_busy(users, others[0])
        cut_at = time.monotonic()
        cut.node.unplug()
        # Whoever had a stream in its engines has to get the rest of it from others meanwhile.
        whole_before = users.num_whole
        await fleet.until(
            "all streams went on elsewhere",
            lambda: time.monotonic() - cut_at > CUT_S and users.num_whole > whole_before,
            since=cut_at,
        )
        cut.node.plug()
        plugged = time.monotonic()
        await fleet.until("all is whole", fleet.is_whole, since=plugged)
        assert fleet.replica_ids() == replicas, "what was only cut off has been replaced"
        async with fleet.crowd(cut) as returned:
            await fleet.until_busy(returned, cut)
    tell(users)
    assert users.broken + returned.broken == []


def tell(users: Crowd) -> None:
    print(f"{users.num_whole} whole streams, longest gap {users.longest_gap_s:.1f} s")
