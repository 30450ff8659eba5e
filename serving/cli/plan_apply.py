"""`galerne plan --apply`: a plan as settings."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from serving.adapters.settings_loader import override_settings
from serving.cli.plan_base import Base
from serving.planner.engine_defaults import by_option
from serving.planner.replica_plan import GPU_MEMORY_UTILIZATION, ReplicaQuestion

if TYPE_CHECKING:
    from serving.lab.deployment import Deployment
    from serving.lab.fleet import Slo


@dataclass(frozen=True, slots=True)
class Chosen:
    """What settings are to say."""

    deployment: Deployment
    question: ReplicaQuestion
    slo: Slo


def plan_settings(base: Base, chosen: Chosen) -> str:
    """A config file for `galerne up`: the base with the plan's figures for its model."""
    tree = copy.deepcopy(base.tree)
    shape = chosen.deployment.plan.shape
    entry = tree["models"][base.name]
    for section, values in _sections(base, chosen).items():
        entry[section] = {**entry.get(section, {}), **values}
    entry["replicas"] = chosen.deployment.num_replicas
    # A request that waits for longer is late whatever becomes of it: who asked for an SLO is better
    # told so at once. loadtest/scenarios/README.md has what either costs under overload.
    if chosen.slo.ttft_s < float("inf"):
        gateway = tree.setdefault("gateway", {})
        gateway.setdefault("queue_timeout_s", chosen.slo.ttft_s / 2)
    override_settings(tree, ())
    head = (
        f"# {chosen.deployment.num_replicas} replicas of {shape.tensor_parallel_size} "
        f"{chosen.question.gpu.name}, one of which may fail\n"
    )
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _sections(base: Base, chosen: Chosen) -> dict[str, dict[str, Any]]:
    shape, question = chosen.deployment.plan.shape, chosen.question
    engine: dict[str, Any] = {
        "max_model_len": question.max_model_len,
        "max_num_batched_tokens": shape.max_num_batched_tokens,
        "max_num_seqs": shape.max_num_seqs,
        "tensor_parallel_size": shape.tensor_parallel_size,
        "gpu_memory_utilization": GPU_MEMORY_UTILIZATION,
    }
    if question.block_size is not None:
        engine["block_size"] = question.block_size
    extra = by_option(base.engine.extra_args)
    if question.kv_dtype != "auto" or "kv-cache-dtype" in extra:
        engine["extra_args"] = {**extra, "kv-cache-dtype": question.kv_dtype}
    limits = {"ttft_s": chosen.slo.ttft_s, "itl_s": chosen.slo.itl_s}
    return {
        "engine": engine,
        "resources": {"device": "gpu", "accelerator_type": question.gpu.accelerator_type},
        "slo": {
            **{name: limit for name, limit in limits.items() if limit < float("inf")},
            "objective_ratio": chosen.slo.ratio,
        },
    }
