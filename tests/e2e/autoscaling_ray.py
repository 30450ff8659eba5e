"""A Ray cluster on this machine whose autoscaler starts and ends nodes, which are made up.

Ray's own `AutoscalingCluster` is not for machines with other Ray clusters on them: it begins with
`ray stop --force`, which ends them all. What it starts is started here: the autoscaler that KubeRay
runs, over Ray's provider of nodes that are processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.harness import wait_until
from loadtest.processes import free_port, running
from serving.adapters import process_tree, ray_cluster
from serving.adapters.local_ports import HeldPorts
from serving.adapters.secrets_file import ensure_secret
from serving.adapters.state_paths import StatePaths
from serving.settings.platform import Settings

IDLE_TIMEOUT_S = 3.0
MOST_NODES = 3
WORKER = "gpu-worker"
_HEAD = "ray.head.default"
_HEAD_NODE_ID = "f" * 51 + "00000"
"""The provider's name for the head (ray 2.60.0, fake_multi_node/node_provider.py)."""
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_NOTHING: dict[str, object] = {
    "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
    "cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": [],
    "initialization_commands": [], "setup_commands": [],
    "head_setup_commands": [], "head_start_ray_commands": [],
    "worker_setup_commands": [], "worker_start_ray_commands": [],
}  # fmt: skip
"""Of what sets up real nodes; the autoscaler refuses a configuration without it."""
_OBJECT_STORE_BYTES = 80_000_000
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class AutoscalingRay:
    """A running cluster, and what programs need to use it."""

    address: str
    environment: Mapping[str, str]
    run_dir: Path

    def run(self, *module_and_arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a Python module to its end, as a client of the cluster."""
        return subprocess.run(
            [sys.executable, "-m", *module_and_arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def processes(self) -> list[tuple[int, int]]:
        """All processes of the cluster, as (pid, start time in ticks)."""
        return process_tree.leftovers(self.run_dir)

    def log_tail(self, *, num_lines: int = 30) -> str:
        """The last lines of the autoscaler's log and of Serve's controller's."""
        logs = self.run_dir / "ray" / "session_latest" / "logs"
        paths = [
            logs / "monitor.log",
            logs / "monitor.err",
            *(logs / "serve").glob("controller_*.log"),
        ]
        said = {p: p.read_text().splitlines() for p in paths if p.exists()}
        tails = {
            path.name: [line for line in lines if "legacy field" not in line][-num_lines:]
            for path, lines in said.items()
        }
        return "\n".join(f"--- {name}\n" + "\n".join(tail) for name, tail in tails.items())


@contextmanager
def autoscaling_ray(settings: Settings, paths: StatePaths) -> Iterator[AutoscalingRay]:
    """A cluster of a head without GPUs and up to `MOST_NODES` workers of one GPU, now none.

    On exit all its processes have ended, whatever has happened.
    """
    for secret in (paths.internal_token_file, paths.metrics_token_file, paths.ray_token_file):
        ensure_secret(secret)
    run_dir = ray_cluster.make_run_dir(paths)
    process_tree.end_leftovers(run_dir)
    address = f"127.0.0.1:{free_port()}"
    config = paths.state_dir / "autoscaler.json"
    config.write_text(json.dumps(_config(address)))
    cluster = AutoscalingRay(address, _environment(settings, paths, run_dir), run_dir)
    try:
        with running(_start_command(address, run_dir, config), environment=cluster.environment):
            wait_until(lambda: _answers(cluster), timeout_s=60, what="Ray's head")
            yield cluster
    finally:
        process_tree.end_leftovers(run_dir)
        shutil.rmtree(run_dir, ignore_errors=True)


def _config(address: str) -> dict[str, object]:
    """What the autoscaler may start.

    Source: ray 2.60.0, cluster_utils.py, `AutoscalingCluster`; autoscaler/v2/instance_manager.
    """
    worker = {"CPU": 1, "GPU": 1, "object_store_memory": _OBJECT_STORE_BYTES}
    return {
        "cluster_name": "galerne-test",
        "max_workers": MOST_NODES,
        "provider": {
            # As "fake_multinode", whose defaults are missing in Ray's wheel.
            "type": "external",
            "module": _PROVIDER,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": _HEAD_NODE_ID,
            "gcs_address": address,
        },
        "head_node_type": _HEAD,
        "available_node_types": {
            _HEAD: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            WORKER: {
                "resources": worker,
                "node_config": {},
                "min_workers": 0,
                "max_workers": MOST_NODES,
            },
        },
        **_NOTHING,
        "upscaling_speed": 1000,  # as KubeRay's `upscalingMode: Default`
        "idle_timeout_minutes": IDLE_TIMEOUT_S / 60,
    }


def _environment(settings: Settings, paths: StatePaths, run_dir: Path) -> dict[str, str]:
    """Of the platform's own local cluster, without HAProxy, and of the autoscaler."""
    ports = HeldPorts()
    platform = ray_cluster.cluster_environment(
        settings, paths, run_dir=run_dir, edge="", ports=ports.hold_local()
    )
    ports.release()
    return {
        **platform,
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        # With it handles would need an event loop, which a test's program has no other use for.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
        "PYTHONPATH": os.pathsep.join([str(_HERE.parents[1]), str(_HERE.parent)]),
        "RAY_ADDRESS": "",  # a test run inside of another cluster stays out of it
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": _HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_METRIC_PORT": "0",
    }


def _start_command(address: str, run_dir: Path, config: Path) -> list[str | Path]:
    port = address.rpartition(":")[2]
    return [
        Path(sys.executable).with_name("ray"), "start", "--head", "--block",
        f"--autoscaling-config={config}", f"--port={port}", f"--temp-dir={run_dir / 'ray'}",
        "--num-cpus=1", "--num-gpus=0", f"--object-store-memory={_OBJECT_STORE_BYTES}",
        "--include-dashboard=false", "--dashboard-agent-listen-port=0",
        "--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={free_port()}",
    ]  # fmt: skip


def _answers(cluster: AutoscalingRay) -> bool:
    status = ("status", f"--address={cluster.address}")
    asked = cluster.run("ray.scripts.scripts", *status, timeout_s=60)
    return asked.returncode == 0 and "Autoscaler status" in asked.stdout
