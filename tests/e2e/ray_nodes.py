"""A Ray cluster over several nodes as KubeRay makes it: a head that serves nobody, and workers.

Where KubeRay makes a pod there is a node of `nodes.py` here, with the same command and environment;
deploying is a PUT to the head's dashboard, as KubeRay's operator does it.

Source: kuberay 1.5, ray-operator/controllers/ray/common/pod.go (`setContainerEnvVars`,
`setMissingRayStartParams`, `configureGCSFaultTolerance`); ray 2.60.0, scripts/scripts.py.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from redis_tools import PORT as REDIS_PORT
from redis_tools import running_redis

from e2e.harness import wait_until
from e2e.nodes import Node, network
from serving.adapters import ray_cluster
from serving.adapters.local_ports import LocalPorts
from serving.adapters.run_record import process_start_ticks
from serving.adapters.secrets_file import ensure_secret, read_secret
from serving.adapters.state_paths import StatePaths
from serving.gateway.edge import CALLBACK as EDGE
from serving.settings.platform import Settings

HEAD = "head"
REDIS = "redis"
_BASE_PREFIX = "galnodes-"
_GCS_PORT = 6379
_DASHBOARD_PORT = 8265
_PORTS = LocalPorts(haproxy_stats=8404, haproxy_metrics=9101, fallback_proxy=8500)
_OBJECT_STORE_BYTES = 80_000_000
_REDIS_PASSWORD = "between-nodes"
_ENDPOINT_PORT = 8000
_UP_TIMEOUT_S = 90
_HERE = Path(__file__).parent
_ONE_MACHINE_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class RayNode:
    """A node that runs Ray until it is killed, and runs it again when it is started again."""

    def __init__(
        self, node: Node, arguments: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.node = node
        self.address = node.address
        self.endpoint = f"http://{node.address}:{_ENDPOINT_PORT}"
        self.folder = folder
        self._arguments = arguments
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.node.name

    def start(self) -> None:
        """Start Ray; as in a new pod, nothing is left of the run before."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
        command = [
            Path(sys.executable).with_name("ray"), "start", "--block",
            f"--temp-dir={self.folder / 'ray'}", f"--object-store-memory={_OBJECT_STORE_BYTES}",
            "--include-log-monitor=false", *self._arguments,
        ]  # fmt: skip
        with (self.folder / "start.log").open("wb") as log:
            self._process = subprocess.Popen(
                self.node.command(*command),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env={**os.environ, **self._environment},
            )  # fmt: skip

    def kill(self) -> None:
        """End the node at once."""
        self.node.kill()
        if self._process is not None:
            self._process.wait()

    def log_tail(self, *, num_lines: int = 20) -> str:
        """The last lines of what Ray and Serve on this node say."""
        logs = self.folder / "ray" / "session_latest" / "logs"
        paths = [self.folder / "start.log", *sorted((logs / "serve").glob("*.log"))]
        return "\n".join(
            f"--- {self.name}: {path.name}\n" + "\n".join(_lines(path)[-num_lines:])
            for path in paths
            if path.exists()
        )


class RayNodes:
    """A running cluster and what its operator asks of it."""

    def __init__(self, head: RayNode, workers: Sequence[RayNode], token: str) -> None:
        self.head = head
        self.workers = workers
        self._dashboard = f"http://{head.address}:{_DASHBOARD_PORT}"
        self._headers = {"authorization": f"Bearer {token}"}

    def start(self) -> None:
        """Start all nodes and return when they are up."""
        self.head.start()
        wait_until(
            lambda: _listens(self.head.address, _GCS_PORT),
            timeout_s=_UP_TIMEOUT_S,
            what="Ray's head",
        )
        for worker in self.workers:
            worker.start()
        wait_until(
            lambda: len(self.nodes_alive()) == 1 + len(self.workers),
            timeout_s=_UP_TIMEOUT_S,
            what="all nodes",
            period_s=0.2,
        )

    def deploy(self, document: Mapping[str, Any]) -> None:
        """Declare the applications, as KubeRay does with `serveConfigV2`."""
        answer = self._ask("PUT", "/api/serve/applications/", json=document)
        assert answer.status_code == 200, answer.text

    def serve_details(self) -> dict[str, Any]:
        """What Serve says of itself: `applications`, `proxies` and more; empty while it is away."""
        try:
            answer = self._ask("GET", "/api/serve/applications/")
        except httpx.TransportError:
            return {}
        details: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return details

    def nodes_alive(self) -> dict[str, str]:
        """Address by node id, of all nodes that Ray takes for alive; none while the head is away.

        Asked of the dashboard's state interface, as a program of the cluster's would be one more
        process that has to survive its head.
        """
        try:
            answer = self._ask("GET", "/api/v0/nodes")
        except httpx.TransportError:
            return {}
        if answer.status_code != 200:
            return {}
        rows = answer.json()["data"]["result"]["result"]
        return {row["node_id"]: row["node_ip"] for row in rows if row["state"] == "ALIVE"}

    def log_tail(self) -> str:
        return "\n".join(node.log_tail() for node in (self.head, *self.workers))

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(
            method, self._dashboard + path, headers=self._headers, timeout=10, **options
        )


@contextmanager
def ray_nodes(
    settings: Settings,
    paths: StatePaths,
    *,
    workers: Sequence[str],
    worker_resources: Mapping[str, float],
    num_gpus: int,
) -> Iterator[RayNodes]:
    """A cluster of a head and workers, whose GPUs are made up, all of them up.

    On exit nothing of it is left.
    """
    for secret in (paths.internal_token_file, paths.metrics_token_file, paths.ray_token_file):
        ensure_secret(secret)
    base = _make_base()
    try:
        with network([REDIS, HEAD, *workers]) as nodes:
            redis = nodes[REDIS]
            with running_redis(redis.address, _REDIS_PASSWORD, inside=redis.command):
                head = _head(nodes[HEAD], settings, paths, base, redis=redis.address)
                arguments = (
                    f"--address={head.address}:{_GCS_PORT}",
                    "--num-cpus=1",
                    f"--num-gpus={num_gpus}",
                    f"--resources={json.dumps(dict(worker_resources))}",
                )
                started = [
                    _worker(nodes[name], arguments, settings, paths, base) for name in workers
                ]
                cluster = RayNodes(head, started, read_secret(paths.ray_token_file))
                try:
                    cluster.start()
                    yield cluster
                except BaseException:
                    print(cluster.log_tail())
                    raise
                finally:
                    for node in (head, *started):
                        node.kill()
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _make_base() -> Path:
    """A folder of this process, in place of those that killed ones have left.

    Sockets lie in it, so its path has to be short.
    """
    tmp = Path(tempfile.gettempdir())
    for left in tmp.glob(f"{_BASE_PREFIX}[0-9]*"):
        owner = int(left.name.removeprefix(_BASE_PREFIX))
        if owner == os.getpid() or process_start_ticks(owner) is None:
            shutil.rmtree(left, ignore_errors=True)
    base = tmp / f"{_BASE_PREFIX}{os.getpid()}"
    base.mkdir(mode=0o700)
    return base


def _head(node: Node, settings: Settings, paths: StatePaths, base: Path, *, redis: str) -> RayNode:
    folder = base / node.name
    arguments = (
        "--head", f"--port={_GCS_PORT}", "--num-cpus=0", "--num-gpus=0",
        "--dashboard-host=0.0.0.0", f"--dashboard-port={_DASHBOARD_PORT}",
        f"--redis-password={_REDIS_PASSWORD}",
    )  # fmt: skip
    environment = {
        **_environment(settings, paths, folder),
        "RAY_ADDRESS": f"127.0.0.1:{_GCS_PORT}",
        # What makes the head's state outlive it; the name keeps clusters of one Redis apart.
        "RAY_REDIS_ADDRESS": f"{redis}:{REDIS_PORT}",
        "RAY_external_storage_namespace": "galerne",
    }
    return RayNode(node, arguments, environment, folder)


def _worker(
    node: Node, arguments: Sequence[str], settings: Settings, paths: StatePaths, base: Path
) -> RayNode:
    folder = base / node.name
    environment = {
        **_environment(settings, paths, folder),
        "RAY_ADDRESS": arguments[0].partition("=")[2],
        # Workers end by default when the head has been away for a minute, and their replicas with
        # them.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    }
    return RayNode(node, arguments, environment, folder)


def _environment(settings: Settings, paths: StatePaths, folder: Path) -> dict[str, str]:
    """Of a pod: the platform's own, what KubeRay adds to a RayService's, and where tests are."""
    # Proxies of all nodes get these from Serve's controller, so the folder must be on each of them:
    # HAProxy's files are told apart by the node's id.
    sockets = folder.with_name("haproxy")
    platform = ray_cluster.cluster_environment(
        settings, paths, run_dir=sockets, edge=EDGE, ports=_PORTS
    )
    platform.pop(_ONE_MACHINE_ONLY)
    return {
        **platform,
        "RAY_timeout_ms_task_wait_for_death_info": "0",
        "RAY_gcs_server_request_timeout_seconds": "5",
        "RAY_SERVE_KV_TIMEOUT_S": "5",
        "RAY_INTERNAL_SERVE_CONTROLLER_PIN_ON_NODE": "0",
        "GALERNE_STATE_DIR": str(paths.state_dir),
        "GALERNE_LOG_DIR": str(folder / "logs"),
        "PYTHONPATH": os.pathsep.join([str(_HERE.parents[1]), str(_HERE.parent)]),
    }


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()
