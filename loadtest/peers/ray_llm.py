"""`ray.serve.llm` from the project's environment: its default path and direct streaming.

Both get what Galerne's own cluster has: workers at nice 0 and Serve's throughput mode. Direct
streaming also needs Serve's HAProxy; it lets HAProxy talk to the engine's replica itself.

Source: https://docs.ray.io/en/master/serve/llm/user-guides/direct-streaming.html, ray 2.60.0.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

from loadtest.peers import bare_vllm
from loadtest.peers.base import Peer, Server
from loadtest.peers.installation import ensure_packages
from loadtest.peers.single import Command, serve
from loadtest.processes import free_port, free_ports

_COMMON = {
    "RAY_worker_niceness": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_DIRECT = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1"}


_NAME = "ray-serve-llm"
_MISSING = "pyarrow==26.0.1"
"""The one package ray.serve.llm imports that `ray[serve]` does not bring."""


def install() -> str:
    """Ray's version."""
    ensure_packages(_NAME, _MISSING)
    return f"{version('ray')} (vLLM {bare_vllm.install()})"


@contextmanager
def start(_engines: Sequence[str], _model: str, environment: Mapping[str, str]) -> Iterator[Server]:
    """A Ray cluster of its own with one engine."""
    port = free_port()
    # Serve's sockets lie below this folder, and their paths may have 97 characters.
    with tempfile.TemporaryDirectory(prefix="gb-", ignore_cleanup_errors=True) as folder:
        options = {
            "port": port,
            "model_id": bare_vllm.MODEL,
            "model": bare_vllm.model_folder(),
            "engine": bare_vllm.ENGINE_OPTIONS,
            "folder": folder,
        }
        words: list[str | Path] = [
            sys.executable,
            Path(__file__).with_name("ray_llm_app.py"),
            json.dumps(options),
        ]
        path = str(ensure_packages(_NAME, _MISSING))
        env = {**_COMMON, "PYTHONPATH": path, **_own_haproxy(Path(folder)), **environment}
        command = Command(
            words,
            f"http://127.0.0.1:{port}",
            "/v1/models",
            environment=env,
            start_timeout_s=bare_vllm.START_TIMEOUT_S,
        )
        with serve("ray.serve.llm", command, bare_vllm.MODEL, role="ray") as server:
            yield server


def _own_haproxy(folder: Path) -> dict[str, str]:
    """Files and ports that no other Serve on this machine uses."""
    stats, metrics, fallback = free_ports(3)
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
    }


DEFAULT = Peer(_NAME, install, partial(start, environment={}))
DIRECT = Peer(f"{_NAME}-direct", install, partial(start, environment=_DIRECT))
