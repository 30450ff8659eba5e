"""LiteLLM's proxy (PyPI `litellm[proxy]`, Python).

It refuses to start without a key, so its callers authenticate, as Galerne's do.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.peers.base import Peer, Server
from loadtest.peers.installation import ensure_environment, program
from loadtest.peers.single import Command, serve
from loadtest.processes import free_port

_NAME = "litellm"
_QUIET = {"version": 1, "disable_existing_loggers": False, "root": {"level": "ERROR"},
          "loggers": {"uvicorn.access": {"level": "ERROR"}}}  # fmt: skip
_ENVIRONMENT = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
}
"""The second stops it from fetching a price list from the network when it starts."""


@contextmanager
def start(engines: Sequence[str], model: str) -> Iterator[Server]:
    """One worker, as one Galerne gateway is one process."""
    key = f"sk-{secrets.token_hex(32)}"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="galerne-bench-") as folder:
        config, logging = Path(folder, "config.yaml"), Path(folder, "logging.json")
        config.write_text(json.dumps(configuration(engines, model)))
        logging.write_text(json.dumps(_QUIET))
        words: list[str | Path] = [
            program(_NAME, "litellm"), "--host", "127.0.0.1", "--port", str(port),
            "--config", config, "--num_workers", "1", "--telemetry", "False",
            "--log_config", logging,
        ]  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        environment = {**_ENVIRONMENT, "LITELLM_MASTER_KEY": key}
        command = Command(words, url, "/health/readiness", environment)
        with serve(_NAME, command, model) as server:
            yield replace(server, headers={"Authorization": f"Bearer {key}"})


def configuration(engines: Sequence[str], model: str) -> dict[str, Any]:
    """All engines under one model name, LiteLLM's default routing (random among the healthy)."""
    return {
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {
                    "model": f"hosted_vllm/{model}",
                    "api_base": f"{engine}/v1",
                    "api_key": "none",
                },
            }
            for engine in engines
        ]
    }


PEER = Peer(_NAME, partial(ensure_environment, _NAME, "litellm[proxy]==1.106.0"), start)
