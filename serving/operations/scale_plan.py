"""What `galerne k8s scale` changes, and where: settings, Serve's configuration, worker groups."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from serving.errors import ConfigError
from serving.operations.pool_bounds import Bounds, models_of, pods_for, pods_needed
from serving.operations.snapshot import Object, worker_groups
from serving.planner.serve_config import APP_NAME, engine_name


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for; `None` leaves it as it is."""

    model: str
    replicas: int | None = None
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class GroupChange:
    """The bounds of a worker group, in pods, before and after."""

    group: str
    before: Bounds
    after: Bounds


def overrides_of(wish: Wish, settings: Mapping[str, Any]) -> dict[str, int]:
    """The settings to change, by path below the model.

    Raises:
        ConfigError: there is no such model; nothing is asked for; a scaled model has no fixed
            number, and one without scaling no bounds.
    """
    models = settings["models"]
    if wish.model not in models:
        raise ConfigError(
            f"there is no model {wish.model!r}",
            code="model_unknown",
            hint=f"one of: {', '.join(sorted(models))}",
        )
    bounds = {"scaling.min_replicas": wish.least, "scaling.max_replicas": wish.most}
    asked = {path: value for path, value in bounds.items() if value is not None}
    if wish.replicas is None and not asked:
        raise ConfigError(
            "nothing to change", code="option_missing", hint="--replicas, or --min and --max"
        )
    is_scaled = models[wish.model].get("scaling") is not None
    if is_scaled and wish.replicas is not None:
        raise ConfigError(
            f"load decides how many replicas {wish.model} has",
            code="model_scaled",
            hint="--min and --max set its bounds; the same for both fixes the number",
        )
    if not is_scaled and asked:
        raise ConfigError(
            f"{wish.model} has a fixed number of replicas",
            code="model_not_scaled",
            hint="--replicas sets it; for bounds, set models.MODEL.scaling in the settings",
        )
    return asked if is_scaled else {"replicas": wish.replicas or 0}


def with_overrides(
    settings: Mapping[str, Any], model: str, overrides: Mapping[str, int]
) -> dict[str, Any]:
    """The settings tree with values of a model changed.

    >>> with_overrides({"models": {"a": {"scaling": {"max_replicas": 2}}}}, "a",
    ...     {"scaling.max_replicas": 3})
    {'models': {'a': {'scaling': {'max_replicas': 3}}}}
    """
    changed = copy.deepcopy(dict(settings))
    for path, value in overrides.items():
        *parents, last = path.split(".")
        node = changed["models"][model]
        for parent in parents:
            node = node[parent]
        node[last] = value
    return changed


def scaled_document(text: str, model: str, settings: Mapping[str, Any]) -> str:
    """A `serveConfigV2` whose deployment of the model has the settings' numbers. Else unchanged,
    but for what gateways know: whether the model may have no replica.

    Raises:
        ConfigError: the model is not in it.
    """
    document = yaml.safe_load(text)
    applications = {each["name"]: each for each in document["applications"]}
    engine = engine_name(model)
    found = [
        each for each in (applications.get(engine) or {}).get("deployments") or ()
        if each["name"] == engine
    ]  # fmt: skip
    if not found:
        raise ConfigError(
            f"serveConfigV2 has no deployment {engine!r}",
            code="deployment_missing",
            hint="the RayService and its settings differ: apply the chart again",
        )
    part = settings["models"][model]
    scaling = part.get("scaling")
    if scaling is None:
        found[0]["num_replicas"] = part["replicas"]
    else:
        least = scaling.get("min_replicas", 1)
        found[0]["autoscaling_config"]["min_replicas"] = least
        found[0]["autoscaling_config"]["max_replicas"] = scaling["max_replicas"]
        _tell_gateways(applications.get(APP_NAME) or {}, model, least)
    # Unchanged content keeps its text: another text is another version to the operator.
    return text if document == yaml.safe_load(text) else yaml.safe_dump(document, sort_keys=False)


def _tell_gateways(application: dict[str, Any], model: str, least: int) -> None:
    models = ((application.get("args") or {}).get("settings") or {}).get("models") or {}
    known = (models.get(model) or {}).get("scaling")
    if known is not None:
        known["min_replicas"] = min(least, 1)


def plan_groups(
    config: Object, model: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[GroupChange, ...]:
    """The worker groups of a model and their bounds after a change of the model's, also where these
    stay: the RayCluster that runs may have others.

    Bounds that agreed with the settings go on agreeing. Others are somebody's choice: a maximum is
    raised if the model alone needs more, a minimum lowered if the maximum is below it, no more.
    """
    changes = []
    for group in worker_groups(config):
        if model not in dict(models_of(group, after)):
            continue
        was = Bounds(group.get("minReplicas") or 0, group.get("maxReplicas") or 0)
        old, new = pods_needed(group, before), pods_needed(group, after)
        alone = pods_for(group, after["models"][model])
        most = max(new.most, 1) if was.most == old.most else max(was.most, alone)
        least = new.least if was.least == old.least and old.least else was.least
        changes.append(GroupChange(group["groupName"], was, Bounds(min(least, most), most)))
    return tuple(changes)


def changes_to_pass_on(config: Object, running: Object) -> tuple[GroupChange, ...]:
    """The worker groups of a cluster that runs whose bounds are not those of the RayService.

    KubeRay does not pass them on: https://github.com/ray-project/kuberay/issues/2331.

    >>> group = {"groupName": "g", "minReplicas": 1, "maxReplicas": 2}
    >>> wanted = {"workerGroupSpecs": [group | {"maxReplicas": 5}]}
    >>> changes_to_pass_on(wanted, {"workerGroupSpecs": [group]})[0].after
    Bounds(least=1, most=5)
    """
    wanted = {each["groupName"]: _bounds_of(each) for each in worker_groups(config)}
    return tuple(
        GroupChange(group["groupName"], before, after)
        for group in worker_groups(running)
        if (before := _bounds_of(group)) is not None
        and (after := wanted.get(group["groupName"])) is not None
        and before != after
    )


def _bounds_of(group: Object) -> Bounds | None:
    """Bounds of a group; `None` where one is left to the operator."""
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    return None if least is None or most is None else Bounds(least, most)


def with_bounds(config: Object, changes: tuple[GroupChange, ...]) -> dict[str, Any]:
    """A cluster's specification with the new bounds. `replicas`, which Ray's autoscaler writes,
    only moves where it would lie outside of them."""
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    wanted = {each.group: each.after for each in changes}
    groups: list[dict[str, Any]] = changed.get("workerGroupSpecs") or []
    for group in groups:
        if bounds := wanted.get(group["groupName"]):
            group["minReplicas"], group["maxReplicas"] = bounds.least, bounds.most
            if group.get("replicas") is not None:
                group["replicas"] = min(max(group["replicas"], bounds.least), bounds.most)
    return changed
