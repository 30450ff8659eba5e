"""The process that runs ray.serve.llm: `python ray_llm_app.py '{"port": …, "model": …, …}'`."""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import Any

import ray
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app

_LOGICAL_CPUS = 64
"""Reservations only: nothing must wait for the two CPUs of a small machine."""


def main() -> None:
    """Serve until SIGTERM."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    stop = threading.Event()
    ray.init(
        address="local",
        num_cpus=_LOGICAL_CPUS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=128 * 1024 * 1024,
        _temp_dir=options["folder"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": options["port"]})
    config = LLMConfig(
        model_loading_config={"model_id": options["model_id"], "model_source": options["model"]},
        engine_kwargs=options["engine"],
        accelerator_config={"kind": "cpu"},
        placement_group_config={"bundles": [{"CPU": 1}]},
        deployment_config={
            "num_replicas": 1,
            "logging_config": {"enable_access_log": False},
        },
        log_engine_metrics=False,
    )
    serve.run(build_openai_app({"llm_configs": [config]}), name="llm", route_prefix="/")
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    ray.shutdown()


if __name__ == "__main__":
    main()
