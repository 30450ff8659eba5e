"""`galerne k8s upgrade` and `galerne k8s rollback`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.adapters.golden_prompts import GoldenPrompt, first_failure, read_golden_prompts
from serving.adapters.kube.client import Object
from serving.adapters.kube.resources import CONFIG_MAPS, NODES, PODS, RAY_SERVICES
from serving.adapters.manifest_files import read_manifests
from serving.cli.console import err, print_json, progress
from serving.cli.k8s_apply import FilesArgument, ForceOption, Item, apply_all, describe, plan
from serving.cli.k8s_options import (
    DEFAULT_NAME,
    LONG_TIMEOUT_S,
    ContextOption,
    JsonOption,
    NameOption,
    NamespaceOption,
    Place,
    TimeoutOption,
    open_place,
)
from serving.cli.k8s_slo import SloWatch
from serving.cli.k8s_status import decisions, wait_until_ready
from serving.errors import ClusterError, ConfigError, ServingError
from serving.operations.cluster_change import Effect
from serving.operations.snapshot import Snapshot, history_name, name_of, settings_name
from serving.operations.surge import plan_surge
from serving.operations.upgrade_plan import Step, from_history, to_history

_SETTINGS = "settings.json"


def upgrade(  # noqa: PLR0913 (one parameter per command-line option)
    ctx: typer.Context,
    files: FilesArgument,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    name: NameOption = DEFAULT_NAME,
    as_json: JsonOption = False,
    timeout: TimeoutOption = LONG_TIMEOUT_S,
    force: ForceOption = False,
    golden: Annotated[
        Path | None,
        typer.Option(help="YAML list of {model, prompt, contains} that must be answered so."),
    ] = None,
    endpoint: Annotated[
        str, typer.Option(help="Where golden prompts are sent; the key is GALERNE_API_KEY.")
    ] = "",
    prometheus: Annotated[
        str, typer.Option(help="A Prometheus that scrapes the platform: then its SLO decides too.")
    ] = "",
    watch_slo: Annotated[
        float, typer.Option(min=0, help="Seconds for which the SLO is watched, with --prometheus.")
    ] = 300.0,
    skip_surge_check: Annotated[
        bool,
        typer.Option(
            "--skip-surge-check", help="Do not ask for free GPUs: the node autoscaler adds nodes."
        ),
    ] = False,
) -> None:
    """Apply a new version, wait until it is ready, and go back to the old one if it is not in
    `--timeout`, if golden prompts fail, or if its SLO is broken.

    First asks whether a second cluster fits, where the change builds one.
    """
    place = open_place(ctx, namespace, context, name, timeout)
    prompts = _golden(golden, endpoint)
    slo_watch = SloWatch(prometheus, watch_slo) if prometheus else None
    if slo_watch is not None:
        slo_watch.check()
    items = plan(place.client, read_manifests(files), place.namespace, force=force)
    before = place.snapshot()
    service = _service_of(items, place)
    if not as_json:
        describe(items)
    if service.change.effect is Effect.IGNORED:
        raise ConfigError(
            f"the operator would ignore the change of {', '.join(service.change.fields)}",
            code="upgrade_forbidden",
            hint="set upgradeStrategy.type to NewCluster; or apply it and delete the RayCluster: "
            "the operator builds a new one, and nothing serves meanwhile",
        )
    if service.change.effect is Effect.NEW_CLUSTER and not skip_surge_check:
        _check_surge(place, before, service)
    kept = _keep(place, before)
    try:
        apply_all(place.client, items)
        with progress("upgrading") as tell:
            reason = _await(place, tell) or first_failure(endpoint, prompts)
            if reason is None and slo_watch is not None:
                reason = slo_watch.failure(place, tell)
    except ServingError as error:
        reason = error.message
    if reason:
        _go_back(place, kept, reason)
    if as_json:
        print_json({"upgraded": True, "effect": service.change.effect.value})
    else:
        err.print("[green]upgraded[/green]")


def rollback(
    ctx: typer.Context,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    name: NameOption = DEFAULT_NAME,
    as_json: JsonOption = False,
    timeout: TimeoutOption = LONG_TIMEOUT_S,
) -> None:
    """Go back to what the last `galerne k8s upgrade` replaced, and wait until it is ready.

    What is replaced now is kept: `rollback` again goes forward.
    """
    place = open_place(ctx, namespace, context, name, timeout)
    kept = place.client.find(CONFIG_MAPS, history_name(place.name), namespace=place.namespace)
    version = _Version(*from_history(kept))
    _keep(place, place.snapshot())
    _restore(place, version)
    with progress("going back") as tell:
        wait_until_ready(place, tell, after_change=True)
    if as_json:
        print_json({"rolled_back": True})
    else:
        err.print("[green]the earlier version is back[/green]")


def _golden(file: Path | None, endpoint: str) -> tuple[GoldenPrompt, ...]:
    if file is None:
        return ()
    if not endpoint:
        raise ConfigError(
            "--golden needs --endpoint", code="option_missing", hint="--endpoint https://HOST"
        )
    return read_golden_prompts(file, api_key=os.environ.get("GALERNE_API_KEY", ""))


def _service_of(items: list[Item], place: Place) -> Item:
    for item in items:
        if item.wanted["kind"] == "RayService" and name_of(item.wanted) == place.name:
            return item
    raise ConfigError(
        f"there is no RayService {place.name!r} in the files",
        code="service_missing",
        hint="an upgrade is one of the RayService; galerne k8s apply is for the rest",
    )


def _check_surge(place: Place, before: Snapshot, service: Item) -> None:
    """Return if the new cluster finds its GPUs.

    Raises:
        ClusterError: it does not.
    """
    if before.service is None:
        return  # Nothing runs that would need its GPUs at the same time.
    spec = (service.after or service.wanted)["spec"]
    surge = plan_surge(
        spec,
        before.clusters.get(before.active),
        nodes=place.client.list(NODES).items,
        pods=place.client.list(PODS).items,
    )
    if not surge.fits:
        raise ClusterError(
            f"nothing was changed: the new cluster needs {surge.num_gpus} GPUs beside those of the "
            f"old one, {surge.free_gpus} are free; no node for {', '.join(surge.homeless)}",
            code="surge_does_not_fit",
            hint="add nodes, use upgradeStrategy NewClusterWithIncrementalUpgrade, or "
            "--skip-surge-check if the node autoscaler adds them",
        )


@dataclass(frozen=True, slots=True)
class _Version:
    """What a version of the platform is made of: the RayService's specification and, where there
    are any, the text of its settings."""

    spec: Mapping[str, Any]
    settings: str | None


def _keep(place: Place, before: Snapshot) -> _Version | None:
    """What is in force, which is now kept for `rollback`; nothing if nothing is."""
    if before.service is None:
        return None
    found = place.client.find(CONFIG_MAPS, settings_name(place.name), namespace=place.namespace)
    version = _Version(before.service["spec"], ((found or {}).get("data") or {}).get(_SETTINGS))
    history = to_history(history_name(place.name), place.namespace, version.spec, version.settings)
    place.client.apply(CONFIG_MAPS, history, force=True)
    return version


def _await(place: Place, tell: Callable[[str], None]) -> str | None:
    """Why the new version does not come up; nothing once it has."""
    for decision, _ in decisions(place, after_change=True):
        if decision.step is Step.DONE:
            return None
        if decision.step is not Step.WAIT:
            return decision.reason
        tell(decision.reason)
    raise AssertionError("an upgrade is followed until it ends")


def _go_back(place: Place, kept: _Version | None, reason: str) -> None:
    """Put the old version back.

    Raises:
        ClusterError: always; says whether the old version is back.
    """
    if kept is None:
        raise ClusterError(
            f"the first version does not come up: {reason}",
            code="upgrade_failed",
            hint="galerne k8s doctor says more; there is no earlier version",
        )
    try:
        _restore(place, kept)
    except ServingError as error:
        raise ClusterError(
            f"the upgrade failed ({reason}), and going back too: {error.message}",
            code="rollback_failed",
            hint="galerne k8s rollback tries it again",
        ) from error
    raise ClusterError(
        f"the upgrade was taken back: {reason}",
        code="upgrade_rolled_back",
        hint="galerne k8s status shows how the old version stands",
    )


def _restore(place: Place, version: _Version) -> None:
    """The version is in force again; it may still have to come up."""

    def service_restored(value: Object) -> Object:
        return {**value, "spec": dict(version.spec)}

    def settings_restored(value: Object) -> Object:
        return {**value, "data": {**value["data"], _SETTINGS: version.settings}}

    client, namespace = place.client, place.namespace
    client.modify(RAY_SERVICES, place.name, service_restored, namespace=namespace)
    if version.settings is not None:
        client.modify(
            CONFIG_MAPS, settings_name(place.name), settings_restored, namespace=namespace
        )
