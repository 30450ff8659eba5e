"""`galerne k8s scale`: how many replicas a model has, or may have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from serving.adapters.kube.client import Object
from serving.adapters.kube.platform_reader import read_settings
from serving.adapters.kube.resources import CONFIG_MAPS, RAY_CLUSTERS, RAY_SERVICES
from serving.adapters.settings_loader import override_settings
from serving.cli.console import err, print_json
from serving.cli.k8s_options import JsonOption, Place, PlatformOptions
from serving.cli.option_groups import grouped
from serving.errors import ClusterError, ConfigError
from serving.operations.scale_plan import (
    GroupChange,
    Wish,
    overrides_of,
    plan_groups,
    scaled_document,
    with_bounds,
    with_overrides,
)
from serving.operations.snapshot import settings_name


@grouped
def scale(
    model: Annotated[str, typer.Argument(help="The model's name in the settings.")],
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Replicas of a model that load does not scale.")
    ] = None,
    least: Annotated[int | None, typer.Option("--min", min=0, help="Fewest replicas.")] = None,
    most: Annotated[int | None, typer.Option("--max", min=1, help="Most replicas.")] = None,
    as_json: JsonOption = False,
    *,
    platform: PlatformOptions,
) -> None:
    """Change how many replicas a model has, in all places that have a say: settings, Serve's
    configuration, and the bounds of its worker group in RayService and RayCluster.

    In place; no engine restarts. Gateways do, one after the other, when `--min` becomes 0 or stops
    being it: they must know whether to wait for a first replica.

    Change the chart's values too, or the next `helm upgrade` takes it back, or stops at fields that
    are now this command's (`--force-conflicts`).
    """
    place = platform.open()
    wish = Wish(model, replicas=replicas, least=least, most=most)
    before = read_settings(place.client, place.namespace, place.name)
    after = with_overrides(before, model, overrides_of(wish, before))
    override_settings(after, [])  # refuses what the settings' rules refuse
    steps, changes = _change_all(place, model, before, after)
    if as_json:
        rows = [
            {"group": each.group, "before": [each.before.least, each.before.most],
             "after": [each.after.least, each.after.most]}
            for each in changes
        ]  # fmt: skip
        print_json({"model": model, "changed": steps, "worker_groups": rows})
        return
    for each in changes:
        if each.before == each.after:
            continue
        err.print(
            f"worker group {each.group}: {each.before.least} to {each.before.most} pods, now "
            f"{each.after.least} to {each.after.most}"
        )
    err.print(f"[green]changed[/green] {', '.join(steps)}" if steps else "nothing to change")


def _change_all(
    place: Place, model: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[list[str], tuple[GroupChange, ...]]:
    """The objects that were changed, in order, and the bounds that were.

    The cluster's room comes first, orders after it: interrupted in between, nothing waits for
    room that is not there. Each step may be done again.

    Raises:
        ClusterError: one was not changed; says which ones were.
    """
    snapshot = place.snapshot()
    if snapshot.service is None:
        raise ClusterError(f"there is no RayService {place.name!r}", code="service_missing")
    config = snapshot.service["spec"]["rayClusterConfig"]
    changes = plan_groups(config, model, before, after)
    # Refused before anything is changed: the model is not deployed.
    scaled_document(snapshot.service["spec"]["serveConfigV2"], model, after)

    def service_changed(value: Object) -> Object:
        spec = value["spec"]
        spec["rayClusterConfig"] = with_bounds(spec["rayClusterConfig"], changes)
        spec["serveConfigV2"] = scaled_document(spec["serveConfigV2"], model, after)
        return value

    def cluster_changed(value: Object) -> Object:
        return {**value, "spec": with_bounds(value["spec"], changes)}

    def settings_changed(value: Object) -> Object:
        if json.loads(value["data"]["settings.json"]) != after:
            value["data"]["settings.json"] = json.dumps(after, indent=2)
        return value

    steps = [
        # The status names a cluster a moment before there is one.
        *((RAY_CLUSTERS, each, cluster_changed) for each in sorted(snapshot.clusters)),
        (RAY_SERVICES, place.name, service_changed),
        (CONFIG_MAPS, settings_name(place.name), settings_changed),
    ]
    done: list[str] = []
    for resource, name, change in steps:
        title = f"{resource.kind} {name}"
        try:
            old = place.client.get(resource, name, namespace=place.namespace)
            new = place.client.modify(resource, name, change, namespace=place.namespace)
        except (ClusterError, ConfigError) as error:
            raise ClusterError(
                f"{title} was not changed: {error.message}; changed before it: "
                f"{', '.join(done) or 'nothing'}",
                code="half_applied" if done else error.code,
                hint=f"{error.hint}; the same command again goes on from there".lstrip("; "),
            ) from error
        if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
            done.append(title)
    return done, changes
