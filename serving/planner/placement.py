"""Which executor, placement-group bundles and actor resources one engine replica needs.

Pure: reads settings, returns a `Placement`. Start with `plan_placement`.

Source: vLLM 0.32.0 (v1/executor/ray_utils.py, v1/executor/ray_executor_v2.py, config/parallel.py,
platforms/cpu.py); ray 2.60.0 (serve/_private/config.py `_validate_placement_group_options`,
llm/_internal/serve/core/configs/accelerators.py, _common/utils.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serving.errors import ConfigError
from serving.settings.engine import EngineSettings, ResourceSettings

_NODE_SHARE = 0.001
"""Amount of `accelerator_type:X` or `pool:X` a replica asks for; a node of that kind offers 1.
Source: ray 2.60.0, _common/utils.py, `RESOURCE_CONSTRAINT_PREFIX`."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What one replica asks of vLLM and of Ray.

    `bundles` are the placement group, in Ray's resource names; none means no group.
    `actor_resources` are what the replica's own actor holds; Ray Serve puts that actor into the
    first bundle, so they fit into it.
    """

    executor: Literal["uni", "mp", "ray"]
    bundles: tuple[Mapping[str, float], ...]
    strategy: Literal["PACK", "STRICT_PACK", "SPREAD"]
    actor_resources: Mapping[str, float]


def plan_placement(engine: EngineSettings, *, resources: ResourceSettings) -> Placement:
    """The placement of one engine replica.

    - CPU: `uni` without a placement group; one process needs nothing placed together.
    - one GPU: `uni`, one bundle.
    - tensor parallelism in one stage: `mp`, one bundle of all its GPUs. A bundle never spans
      nodes, so the group cannot either. The actor holds the GPUs, so Ray makes exactly these
      visible to it and to its children; the workers die with their parent and speak over shared
      memory. The `ray` executor would add an actor per GPU, for nothing: it refuses bundles of
      more than one GPU and would need the replica's actor to see none.
    - several pipeline stages: `ray`, since `mp` cannot leave its node; one bundle per GPU, because
      vLLM refuses larger ones. The actor holds no GPU: each belongs to a worker actor. vLLM hands
      out ranks over the bundles sorted by node, the replica's node first, so rank 0 runs beside
      the replica. `PACK` only prefers few nodes: see `tensor_group_spans_nodes`.

    Raises:
        ConfigError: parallelism over GPUs, or an accelerator type, on device `cpu`.

    >>> plan_placement(EngineSettings(), resources=ResourceSettings(device="gpu")).bundles
    ({'GPU': 1.0, 'CPU': 1.0},)
    >>> engine = EngineSettings(tensor_parallel_size=4)
    >>> placement = plan_placement(engine, resources=ResourceSettings(num_cpus=0))
    >>> placement.executor, placement.bundles, placement.strategy
    ('mp', ({'GPU': 4.0},), 'STRICT_PACK')
    >>> engine = EngineSettings(tensor_parallel_size=2, pipeline_parallel_size=2)
    >>> placement = plan_placement(engine, resources=ResourceSettings(accelerator_type="H100"))
    >>> placement.executor, len(placement.bundles), placement.strategy
    ('ray', 4, 'PACK')
    >>> placement.bundles[0]
    {'GPU': 1.0, 'CPU': 1.0, 'accelerator_type:H100': 0.001}
    >>> plan_placement(EngineSettings(), resources=ResourceSettings(device="cpu")).bundles
    ()
    """
    if resources.device == "cpu":
        _refuse_gpu_options(engine, resources=resources)
        asked = {**_resources(resources.num_cpus), **pool_share(resources.pool)}
        return Placement("uni", (), "PACK", asked)
    if engine.pipeline_parallel_size > 1:
        bundles = tuple(_bundle(resources, num_gpus=1) for _ in range(engine.num_gpus))
        return Placement("ray", bundles, "PACK", _resources(resources.num_cpus))
    executor: Literal["uni", "mp"] = "uni" if engine.num_gpus == 1 else "mp"
    bundle = _bundle(resources, num_gpus=engine.num_gpus)
    return Placement(
        executor, (bundle,), "STRICT_PACK", _resources(resources.num_cpus, num_gpus=engine.num_gpus)
    )


def to_deployment_options(placement: Placement) -> dict[str, Any]:
    """Keyword arguments for Ray Serve's `deployment.options(...)`.

    `num_cpus` is always given: Serve's own default would reserve one core.

    >>> gpu = plan_placement(EngineSettings(), resources=ResourceSettings(num_cpus=2))
    >>> to_deployment_options(gpu)["placement_group_bundles"]
    [{'GPU': 1.0, 'CPU': 2.0}]
    >>> to_deployment_options(gpu)["ray_actor_options"]
    {'num_cpus': 2.0, 'num_gpus': 1.0}
    >>> cpu = plan_placement(EngineSettings(), resources=ResourceSettings(device="cpu", num_cpus=0))
    >>> to_deployment_options(cpu)
    {'ray_actor_options': {'num_cpus': 0.0, 'num_gpus': 0.0}}
    >>> pooled = plan_placement(EngineSettings(), resources=ResourceSettings(pool="h100"))
    >>> pooled.bundles
    ({'GPU': 1.0, 'CPU': 1.0, 'pool:h100': 0.001},)
    """
    others = {
        name: amount
        for name, amount in placement.actor_resources.items()
        if name not in ("CPU", "GPU")
    }
    actor_options: dict[str, Any] = {
        "num_cpus": placement.actor_resources.get("CPU", 0.0),
        "num_gpus": placement.actor_resources.get("GPU", 0.0),
        **({"resources": others} if others else {}),
    }
    options: dict[str, Any] = {"ray_actor_options": actor_options}
    if placement.bundles:
        options["placement_group_bundles"] = [dict(bundle) for bundle in placement.bundles]
        options["placement_group_strategy"] = placement.strategy
    return options


def tensor_group_spans_nodes(node_of_bundle: Sequence[str], *, tensor_parallel_size: int) -> bool:
    """Whether a tensor-parallel group of the `ray` executor spans nodes.

    vLLM only warns of this, and Ray has no strategy that forbids it, so the replica checks the
    group it was given before it loads weights. Ranks follow the bundles sorted by node and a group
    is `tensor_parallel_size` ranks in a row, so no group straddles exactly when every node holds a
    multiple of it. No other order would do better: groups that fit nodes imply those multiples.
    Nodes whose GPU count is a multiple of the group, used by nothing smaller, always satisfy it.

    Args:
        node_of_bundle: node id of each bundle, [num_bundles].

    Source: vLLM 0.32.0, v1/executor/ray_utils.py, `get_bundles_sorted_by_node` and
    `_verify_bundles`.

    >>> tensor_group_spans_nodes(["a", "b", "a", "b"], tensor_parallel_size=2)
    False
    >>> tensor_group_spans_nodes(["a", "a", "a", "b"], tensor_parallel_size=2)
    True
    """
    return any(count % tensor_parallel_size for count in Counter(node_of_bundle).values())


def _bundle(resources: ResourceSettings, *, num_gpus: int) -> Mapping[str, float]:
    bundle = {"GPU": float(num_gpus), **_resources(resources.num_cpus)}
    if resources.accelerator_type is not None:
        bundle[f"accelerator_type:{resources.accelerator_type}"] = _NODE_SHARE
    return bundle | pool_share(resources.pool)


def pool_share(pool: str | None) -> dict[str, float]:
    """What a replica asks of Ray to be placed in a pool of nodes.

    >>> pool_share("h100"), pool_share(None)
    ({'pool:h100': 0.001}, {})
    """
    return {f"pool:{pool}": _NODE_SHARE} if pool is not None else {}


def _resources(num_cpus: float, *, num_gpus: int = 0) -> dict[str, float]:
    """Without zero amounts, which Ray refuses in bundles."""
    amounts = {"CPU": float(num_cpus), "GPU": float(num_gpus)}
    return {name: amount for name, amount in amounts.items() if amount}


def _refuse_gpu_options(engine: EngineSettings, *, resources: ResourceSettings) -> None:
    options = {
        "engine.tensor_parallel_size": (engine.tensor_parallel_size, 1),
        "engine.pipeline_parallel_size": (engine.pipeline_parallel_size, 1),
        "resources.accelerator_type": (resources.accelerator_type, None),
    }
    for param, (value, allowed) in options.items():
        if value != allowed:
            raise ConfigError(
                f"{param} is {value!r}, but resources.device is 'cpu', which allows {allowed!r}",
                code="setting_invalid",
                param=param,
                hint="set resources.device to gpu, or remove the option",
            )
