"""The SGLang / Shepherd model gateway (PyPI `smg`, Rust)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from loadtest.peers.base import Peer, Server
from loadtest.peers.installation import ensure_environment, program
from loadtest.peers.single import Command, serve
from loadtest.processes import free_ports

_NAME = "smg"


@contextmanager
def start(engines: Sequence[str], model: str, *, policy: str = "round_robin") -> Iterator[Server]:
    """One gateway process."""
    port, metrics_port = free_ports(2)
    words: list[str | Path] = [
        program(_NAME, "smg"), "launch", "--host", "127.0.0.1", "--port", str(port),
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port),
        "--policy", policy, "--backend", "vllm", "--log-level", "warn",
        "--disable-tokenizer-autoload", "--worker-startup-check-interval", "1",
        "--shutdown-grace-period-secs", "2", "--worker-urls", *engines,
    ]  # fmt: skip
    command = Command(words, f"http://127.0.0.1:{port}", ready_path="/readiness")
    with serve(_NAME, command, model) as server:
        yield server


_install = partial(ensure_environment, _NAME, "smg==1.13.0")
PEER = Peer(_NAME, _install, start)
CACHE_AWARE = Peer(_NAME, _install, partial(start, policy="cache_aware"))
