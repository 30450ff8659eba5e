"""`galerne k8s upgrade` and `galerne k8s rollback`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from serving.adapters.golden_prompts import GoldenPrompt, first_failure, read_golden_prompts
from serving.adapters.kube.resources import NODES, PODS, QUOTAS
from serving.adapters.manifest_files import read_manifests
from serving.cli.console import err, print_json, progress
from serving.cli.k8s_apply import FilesArgument, ForceOption, Item, apply_all, describe, plan
from serving.cli.k8s_history import in_force, keep, kept, restore
from serving.cli.k8s_options import JsonOption, PatientOptions, Place
from serving.cli.k8s_slo import SloWatch
from serving.cli.k8s_status import decisions, wait_until_ready
from serving.cli.option_groups import grouped
from serving.errors import ClusterError, ConfigError, ServingError
from serving.operations.cluster_change import Effect
from serving.operations.readiness import Phase, assess
from serving.operations.snapshot import Snapshot, condition, name_of
from serving.operations.surge import plan_surge
from serving.operations.upgrade_plan import Step, Version


@grouped
def upgrade(  # noqa: PLR0913 (one parameter per command-line option)
    files: FilesArgument,
    as_json: JsonOption = False,
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
            "--skip-surge-check", help="Do not ask for room: the node autoscaler adds nodes."
        ),
    ] = False,
    *,
    platform: PatientOptions,
) -> None:
    """Apply a new version, wait until it is ready, and go back to the old one if it is not in
    `--timeout`, if golden prompts fail, or if its SLO is broken.

    First asks whether a second cluster fits, where the change builds one.
    """
    place = platform.open()
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
    way_back = _way_back(place, before, items)
    try:
        apply_all(place.client, items)
        with progress("upgrading") as tell:
            reason = _await(place, tell) or first_failure(endpoint, prompts)
            if reason is None and slo_watch is not None:
                reason = slo_watch.failure(place, tell)
    except ServingError as error:
        reason = error.message
    if reason:
        _go_back(place, way_back, reason)
    if as_json:
        print_json({"upgraded": True, "effect": service.change.effect.value})
    else:
        err.print("[green]upgraded[/green]")


@grouped
def rollback(as_json: JsonOption = False, *, platform: PatientOptions) -> None:
    """Go back to what the last `galerne k8s upgrade` replaced, and wait until it is ready.

    What is replaced now is kept if it was ready: `rollback` again goes forward.
    """
    place = platform.open()
    version, before = kept(place), place.snapshot()
    if version is None:
        raise ConfigError(
            "no earlier version is kept",
            code="history_missing",
            hint="`galerne k8s upgrade` keeps one; Helm has its own: helm rollback",
        )
    replaced = in_force(place, before)
    restore(place, version)
    with progress("going back") as tell:
        wait_until_ready(place, tell, after_change=True)
    if replaced is not None and replaced != version and assess(before).phase is Phase.READY:
        keep(place, replaced)
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
    """Return if the new cluster finds its GPUs, and quotas grant it.

    Raises:
        ClusterError: not so.
    """
    if before.service is None:
        return  # Nothing runs that would need its GPUs at the same time.
    spec = (service.after or service.wanted)["spec"]
    surge = plan_surge(
        spec,
        before.clusters.get(before.active),
        nodes=place.client.list(NODES).items,
        pods=place.client.list(PODS).items,
        quotas=place.client.list(QUOTAS, namespace=place.namespace).items,
    )
    if surge.homeless:
        raise ClusterError(
            f"nothing was changed: the new cluster needs {surge.num_gpus} GPUs beside those of the "
            f"old one, {surge.free_gpus} are free; no node for {', '.join(surge.homeless)}",
            code="surge_does_not_fit",
            hint="add nodes that its pods' tolerations, node selector and node affinity allow, use "
            "upgradeStrategy NewClusterWithIncrementalUpgrade, or --skip-surge-check if the node "
            "autoscaler adds them",
        )
    if surge.over_quota:
        raise ClusterError(
            f"nothing was changed: beside the old cluster there is no room for a new one in "
            f"{'; '.join(surge.over_quota)}",
            code="surge_over_quota",
            hint="raise the ResourceQuota, or use upgradeStrategy NewClusterWithIncrementalUpgrade",
        )


def _way_back(place: Place, before: Snapshot, items: list[Item]) -> Version | None:
    """What a failed upgrade goes back to; nothing if there is no platform yet.

    That is what is in force, which is then kept for `rollback`, if it was ready and is about to
    change; else an upgrade that was interrupted is begun again, and what was kept stays kept.
    """
    version = in_force(place, before)
    changed = [each.title for each in items if each.change.effect is not Effect.NOTHING]
    if version is None:
        return None
    if not changed or assess(before).phase is not Phase.READY:
        return kept(place) or version
    if {f"{each['kind']} {name_of(each)}" for each in version}.intersection(changed):
        keep(place, version)
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


def _go_back(place: Place, version: Version | None, reason: str) -> None:
    """Put the old version back, and wait until it serves.

    Raises:
        ClusterError: always; says whether the old version is back.
    """
    if version is None:
        raise ClusterError(
            f"the first version does not come up: {reason}",
            code="upgrade_failed",
            hint="galerne k8s doctor says more; there is no earlier version",
        )
    try:
        restore(place, version)
    except ServingError as error:
        raise ClusterError(
            f"the upgrade failed ({reason}), and going back too: {error.message}",
            code="rollback_failed",
            hint="galerne k8s rollback tries it again",
        ) from error
    _await_return(place, reason)
    raise ClusterError(
        f"the upgrade was taken back: {reason}",
        code="upgrade_rolled_back",
        hint="the old version serves; galerne k8s status shows it",
    )


def _await_return(place: Place, reason: str) -> None:
    """Return once the old version serves again.

    Raises:
        ClusterError: it does not in the place's time, which starts anew; says what serves.
    """
    serving, problem = "nothing is known of what serves", ""
    try:
        with progress(f"going back: {reason}") as tell:
            for decision, snapshot in decisions(place, after_change=True):
                serving, problem = _serving(snapshot), decision.reason
                if decision.step is Step.WAIT:
                    tell(f"going back: {problem}; {serving} until then")
    except ServingError as error:
        problem = error.message
    if problem:
        raise ClusterError(
            f"the upgrade is being taken back: {reason}; {serving} until then ({problem})",
            code="upgrade_being_rolled_back",
            hint="galerne k8s wait",
        )


def _serving(snapshot: Snapshot) -> str:
    """What answers requests now, in words."""
    if condition(snapshot.service, "Ready").get("status") != "True":
        return "nothing serves"
    return f"cluster {snapshot.active} serves"
