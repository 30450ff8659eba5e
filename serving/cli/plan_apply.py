"""`galerne plan --apply`: a plan as settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from serving.adapters.settings_loader import override_settings
from serving.errors import ConfigError
from serving.planner.replica_plan import GPU_MEMORY_UTILIZATION, ReplicaQuestion
from serving.settings import DEMO_SOURCE, Settings

if TYPE_CHECKING:
    from serving.lab.deployment import Deployment
    from serving.lab.fleet import Slo


@dataclass(frozen=True, slots=True)
class Chosen:
    """What settings are to say."""

    deployment: Deployment
    question: ReplicaQuestion
    slo: Slo


def plan_settings(model: str, base: Settings | None, chosen: Chosen) -> str:
    """A config file for `galerne up`: the base with the plan's figures for its model.

    Args:
        model: what the plan was asked for, which tells where the weights are without a base.

    Raises:
        ConfigError: it is not known where the weights are, or which model of the base is meant.
    """
    tree = base.model_dump(mode="json", exclude_unset=True) if base else _from_scratch(model)
    name = _name(model, list(tree["models"]))
    shape = chosen.deployment.plan.shape
    entry = tree["models"][name]
    for section, values in _sections(chosen).items():
        entry[section] = {**entry.get(section, {}), **values}
    entry["replicas"] = chosen.deployment.num_replicas
    # Under overload a request that waits for longer is late whatever becomes of it, and makes those
    # behind it late too: loadtest/scenarios/README.md has what that costs.
    if chosen.slo.ttft_s < float("inf"):
        gateway = tree.setdefault("gateway", {})
        gateway.setdefault("queue_timeout_s", chosen.slo.ttft_s / 2)
    override_settings(tree, ())
    head = (
        f"# {chosen.deployment.num_replicas} replicas of {shape.tensor_parallel_size} "
        f"{chosen.question.gpu.name}, one of which may fail\n"
    )
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _sections(chosen: Chosen) -> dict[str, dict[str, Any]]:
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
    if question.kv_dtype != "auto":
        engine["extra_args"] = {"kv-cache-dtype": question.kv_dtype}
    limits = {"ttft_s": chosen.slo.ttft_s, "itl_s": chosen.slo.itl_s}
    return {
        "engine": engine,
        "resources": {"device": "gpu", "accelerator_type": question.gpu.accelerator_type},
        "slo": {
            **{name: limit for name, limit in limits.items() if limit < float("inf")},
            "objective_ratio": chosen.slo.ratio,
        },
    }


def _from_scratch(model: str) -> dict[str, Any]:
    folder = Path(model).expanduser()
    if folder.is_dir():
        source = str(folder.resolve())
        return {"models": {folder.resolve().name: {"weights": {"source": source}}}}
    if model == DEMO_SOURCE:
        return {"models": {model: {"weights": {"source": DEMO_SOURCE}}}}
    raise ConfigError(
        f"a configuration does not tell where the weights of {model} are",
        code="weights_unknown",
        param="--apply",
        hint="name settings that do with --config, or a model folder with --model",
    )


def _name(model: str, names: list[str]) -> str:
    if model in names:
        return model
    if len(names) == 1:
        return names[0]
    raise ConfigError(
        f"the settings have several models: {', '.join(names)}",
        code="model_ambiguous",
        param="--config",
        hint="give settings with one model, or name one of them with --model",
    )
