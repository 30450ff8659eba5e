"""Starting vLLM in an engine replica as the model's settings say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import ray

from serving.core.start_record import StartPhase, StartRecord
from serving.core.types import ModelId
from serving.engine.arguments import engine_arguments, engine_environment
from serving.engine.socket_dir import make_socket_dir
from serving.engine.vllm_shim import KvEventSource, VllmEngine, start_engine
from serving.errors import ConfigError
from serving.planner.placement import plan_placement, tensor_group_spans_nodes
from serving.settings.model import ModelSettings


async def launch_vllm(
    model_id: ModelId,
    model: ModelSettings,
    resolve_weights: Callable[[], Path],
    complete: Callable[[ModelSettings, Path], ModelSettings],
    secret: bytes,
    start: StartRecord,
) -> VllmEngine:
    """Load the model into this process and its children.

    Args:
        resolve_weights: gives the verified model folder; runs in this process, on its node.
        complete: fills in what the settings leave to the planner, who must see the model's folder.
        secret: of the names of its blocks.
        start: is told the phases.

    Raises:
        ConfigError: the weights, the options or the placement cannot be used.
    """
    _refuse_split_tensor_group(model)
    with start.phase(StartPhase.WEIGHTS):
        weights = resolve_weights()
    model = complete(model, weights)
    sockets = make_socket_dir()
    kv_events = f"ipc://{sockets}/events"
    arguments = engine_arguments(
        model_id,
        model,
        weights=weights,
        placement=plan_placement(model.engine, resources=model.resources),
        kv_events=kv_events,
    )
    num_cores = len(os.sched_getaffinity(0))
    os.environ.update(engine_environment(model.resources, num_cores=num_cores))
    os.environ["VLLM_RPC_BASE_PATH"] = str(sockets)  # not loose in the temporary folder
    with start.phase(StartPhase.LOAD):
        engine = await start_engine(
            arguments,
            hang_timeout_s=model.engine.hang_timeout_s,
            events=KvEventSource(kv_events, secret, _adapter_paths(model)),
        )
    with start.phase(StartPhase.WARM_UP):
        await engine.warm_up()
    return engine


def _adapter_paths(model: ModelSettings) -> dict[str, str]:
    return {name: str(path.expanduser()) for name, path in model.adapters.items()}


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
