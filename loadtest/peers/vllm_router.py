"""vLLM's router (PyPI `vllm-router`, Rust)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from loadtest.peers.base import Peer, Server
from loadtest.peers.installation import ensure_environment, program
from loadtest.peers.single import Command, serve
from loadtest.processes import free_ports

_NAME = "vllm-router"


@contextmanager
def start(engines: Sequence[str], model: str, *, policy: str = "round_robin") -> Iterator[Server]:
    """One router process."""
    port, metrics_port = free_ports(2)
    words: list[str | Path] = [
        program(_NAME, "vllm-router"), "--host", "127.0.0.1", "--port", str(port),
        "--prometheus-port", str(metrics_port), "--policy", policy,
        "--log-level", "warning", "--worker-startup-check-interval", "1",
        "--worker-urls", *engines,
    ]  # fmt: skip
    with serve(_NAME, Command(words, f"http://127.0.0.1:{port}"), model) as server:
        yield server


_install = partial(ensure_environment, _NAME, "vllm-router==0.1.17")
PEER = Peer(_NAME, _install, start)
CACHE_AWARE = Peer(_NAME, _install, partial(start, policy="cache_aware"))
