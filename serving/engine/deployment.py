"""The Ray Serve deployment that runs one vLLM engine and its listener."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from serving.core.types import ModelId
from serving.engine.arguments import engine_arguments, engine_environment
from serving.engine.guard import EngineGuard
from serving.engine.listener import EngineListener
from serving.engine.vllm_shim import VllmEngine, start_engine
from serving.errors import ConfigError
from serving.planner.placement import plan_placement, tensor_group_spans_nodes
from serving.settings import ModelSettings

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What one engine replica is built from.

    The two callables run in the replica's process, on its node: `resolve_weights` gives the
    verified model folder, `read_token` the cluster's internal token. Neither a path of another
    machine nor a secret travels in the deployment's arguments.
    """

    model_id: ModelId
    model: ModelSettings
    resolve_weights: Callable[[], Path]
    read_token: Callable[[], str]


class EngineReplica:
    """One vLLM engine behind a guarded listener of its own.

    Requests never pass through Ray: gateways connect to the address in `record_replica_metadata`.
    Serve starts, watches and stops the process.
    """

    async def __init__(self, spec: EngineSpec) -> None:  # type: ignore[misc]  # Serve awaits it
        self._spec = spec
        placement = plan_placement(spec.model.engine, resources=spec.model.resources)
        _refuse_split_tensor_group(spec.model)
        arguments = engine_arguments(
            spec.model_id, spec.model, weights=spec.resolve_weights(), placement=placement
        )
        num_cores = len(os.sched_getaffinity(0))
        os.environ.update(engine_environment(spec.model.resources, num_cores=num_cores))
        self._engine: VllmEngine = await start_engine(arguments)
        self._guard = EngineGuard(
            self._engine.app,
            token=spec.read_token(),
            max_in_flight=spec.model.max_concurrent_requests,
            state=self._state,
        )
        self._listener = EngineListener(self._guard, host=ray.util.get_node_ip_address())
        self._listener.start()

    def record_replica_metadata(self) -> dict[str, Any]:
        """Where gateways find this replica; read once by Serve when the replica is ready."""
        return {"url": self._listener.url, "pid": os.getpid()}

    async def check_health(self) -> None:
        """Raise when the engine process or the listener is gone, so that Serve replaces both."""
        await self._engine.check_health()
        if not self._listener.is_serving:
            raise RuntimeError("the engine listener has stopped")

    def _state(self) -> dict[str, Any]:
        return {
            "model": self._spec.model_id,
            "engine": asdict(self._engine.description),
            "load": asdict(self._engine.load()),
        }

    async def __del__(self) -> None:
        """Finish the running streams, up to the drain limit, then stop the engine.

        Serve awaits this before it ends the process; a replica that failed to start has no parts.
        """
        if not hasattr(self, "_listener"):
            return
        if not await self._guard.drain(self._spec.model.drain_timeout_s):
            logger.warning("drain limit reached with %d requests left", self._guard.in_flight)
        await self._listener.stop()
        self._engine.shutdown()


def _refuse_split_tensor_group(model: ModelSettings) -> None:
    """Stop before loading weights if Ray spread a tensor-parallel group over nodes.

    Raises:
        ConfigError: the placement group splits a group; vLLM would run, at network speed.
    """
    if model.engine.pipeline_parallel_size == 1 or model.engine.tensor_parallel_size == 1:
        return
    group = ray.util.get_current_placement_group()
    nodes = ray.util.placement_group_table(group)["bundles_to_node_id"].values()
    tensor_parallel_size = model.engine.tensor_parallel_size
    if tensor_group_spans_nodes(list(nodes), tensor_parallel_size=tensor_parallel_size):
        raise ConfigError(
            f"a tensor-parallel group of {tensor_parallel_size} GPUs was spread over nodes",
            code="tensor_group_split",
            hint="use nodes whose GPU count is a multiple of tensor_parallel_size",
        )
