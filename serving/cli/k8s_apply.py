"""`galerne k8s apply`, and the steps that `upgrade` shares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from serving.adapters.kube.client import FIELD_MANAGER, KubeClient, Object
from serving.adapters.kube.failures import (
    FieldConflict,
    KindMissing,
    NamespaceMissing,
)
from serving.adapters.kube.platform_reader import has_operator
from serving.adapters.kube.resources import SECRETS, Resource
from serving.adapters.manifest_files import read_manifests
from serving.cli.console import err, out, print_json
from serving.cli.k8s_bounds import pass_bounds_on
from serving.cli.k8s_options import JsonOption, PlatformOptions
from serving.cli.option_groups import grouped
from serving.errors import ClusterError, ConfigError
from serving.operations.cluster_change import Change, Effect, change_of
from serving.operations.manifests import difference, in_order, needed_secrets
from serving.operations.snapshot import name_of

FilesArgument = Annotated[
    list[Path], typer.Argument(help="YAML or JSON files, or folders with such files.")
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Take over fields that another manager owns, such as Helm.")
]


@dataclass(frozen=True, slots=True)
class Item:
    """An object to apply: as it is, as the server says it would become, and what that does.

    `after` is `None` where the server cannot be asked: its namespace is still to be made. `force`
    takes over fields of others.
    """

    resource: Resource
    wanted: Object
    before: Object | None
    after: Object | None
    change: Change
    force: bool = False

    @property
    def title(self) -> str:
        return f"{self.wanted['kind']} {name_of(self.wanted)}"

    @property
    def action(self) -> str:
        """What an apply does to it, in words."""
        if self.before is None:
            return "create"
        return "keep" if self.change.effect is Effect.NOTHING else "change"


@grouped
def apply(
    files: FilesArgument,
    as_json: JsonOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, change nothing.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show what changes.")] = False,
    force: ForceOption = False,
    *,
    platform: PlatformOptions,
) -> None:
    """Apply objects on the server's side, as field manager `galerne`.

    Everything is checked first: what is missing, fields of others, fields that nobody knows. Says
    of a RayService whether the change is made in place or builds a second cluster.
    """
    place = platform.open()
    items = plan(place.client, read_manifests(files), place.namespace, force=force)
    if not as_json:
        describe(items, diff=diff)
    done = [] if dry_run else apply_all(place.client, items)
    if as_json:
        print_json(_document(items, applied=[item.title for item in done]))
    else:
        err.print("[dim]nothing was changed[/dim]" if dry_run else "[green]applied[/green]")


def plan(
    client: KubeClient, objects: Sequence[Object], namespace: str, *, force: bool
) -> list[Item]:
    """What applying these objects does, in its order. Changes nothing.

    Raises:
        ConfigError: something that they need is missing, or a field is wrong.
        FieldConflict: another manager owns fields, and `force` is not set.
    """
    located = _located(client, objects, namespace)
    made = {(each["kind"], name_of(each)) for _, each in located}
    missing = _missing(client, located, made)
    if missing:
        raise ConfigError(
            f"nothing was changed: {'; '.join(message for message, _ in missing)}",
            code="parts_missing",
            hint="; ".join(dict.fromkeys(hint for _, hint in missing if hint)),
        )
    if _services(located) and not has_operator(client):
        err.print(
            "[yellow]no Deployment is labelled as KubeRay's operator: unless it runs otherwise, "
            "nobody acts on the RayService (helm install kuberay-operator, 1.5.1 or later)"
            "[/yellow]",
            soft_wrap=True,
        )
    return [_item(client, resource, each, made, force=force) for resource, each in located]


def apply_all(client: KubeClient, items: Sequence[Item]) -> list[Item]:
    """The items that were applied.

    Raises:
        ClusterError: one was not; says which ones were.
    """
    done: list[Item] = []
    for item in items:
        try:
            applied_object = client.apply(item.resource, item.wanted, force=item.force)
        except (ClusterError, ConfigError) as error:
            applied = ", ".join(each.title for each in done) or "nothing"
            raise ClusterError(
                f"{item.title} was not applied: {error.message}; applied before it: {applied}",
                code="half_applied" if done else error.code,
                hint=f"{error.hint}; apply again, it goes on from there".lstrip("; "),
                retryable=error.retryable,
            ) from error
        done.append(item)
        if item.wanted["kind"] == "RayService" and item.change.effect is not Effect.NEW_CLUSTER:
            pass_bounds_on(client, applied_object)
    return done


def describe(items: Sequence[Item], *, diff: bool = False) -> None:
    """Print what applying does."""
    for item in items:
        fields = f": {', '.join(item.change.fields)}" if item.change.fields else ""
        effect = ""
        if item.wanted["kind"] == "RayService" and item.change.effect is not Effect.NOTHING:
            effect = f" ({item.change.effect.value}{fields})"
        out.print(escape(f"{item.action:6} {item.title}{effect}"), soft_wrap=True)
        if item.before is not None and item.change.effect is Effect.NEW_CLUSTER:
            out.print(
                "[yellow]       a second cluster is built beside the first: until it is ready, it "
                "takes its GPUs twice[/yellow]",
                soft_wrap=True,
            )
        if diff and item.after is not None and item.action != "keep":
            out.print(difference(item.before, item.after), markup=False, soft_wrap=True)


def _located(
    client: KubeClient, objects: Sequence[Object], namespace: str
) -> list[tuple[Resource, Object]]:
    """The objects with their kinds' addresses and namespaces, in order."""
    found, unknown = [], []
    for value in in_order(objects):
        try:
            resource = client.resource_for(value["apiVersion"], value["kind"])
        except KindMissing as error:
            unknown.append(error)
            continue
        metadata = dict(value["metadata"])
        if resource.namespaced:
            metadata.setdefault("namespace", namespace)
        found.append((resource, {**value, "metadata": metadata}))
    if unknown:
        raise ConfigError(
            f"nothing was changed: {'; '.join(dict.fromkeys(e.message for e in unknown))}",
            code="kube_kind_missing",
            hint=unknown[0].hint,
        )
    return found


def _missing(
    client: KubeClient,
    located: Sequence[tuple[Resource, Object]],
    made: set[tuple[str, str]],
) -> list[tuple[str, str]]:
    """What is not there and not among the objects either, and how to mend that."""
    found: list[tuple[str, str]] = []
    namespaces = {each["metadata"].get("namespace") for _, each in located} - {None}
    absent = {
        each for each in sorted(namespaces)
        if ("Namespace", each) not in made and not client.has_namespace(each)
    }  # fmt: skip
    found += [
        (f"there is no namespace {each!r}", f"kubectl create namespace {each}") for each in absent
    ]
    for service in _services(located):
        where = service["metadata"]["namespace"]
        for name in sorted(needed_secrets(service)):
            there = ("Secret", name) in made or where in absent or _has_secret(client, name, where)
            if not there:
                found.append((f"there is no Secret {name!r}", f"make Secret {name} in {where}"))
    return found


def _services(located: Sequence[tuple[Resource, Object]]) -> list[Object]:
    return [each for _, each in located if each["kind"] == "RayService"]


def _has_secret(client: KubeClient, name: str, namespace: str) -> bool:
    """Whether it is there. Taken for granted by those who may not look."""
    try:
        return client.find(SECRETS, name, namespace=namespace) is not None
    except ConfigError as error:
        if error.code != "kube_forbidden":
            raise
        return True


def _item(
    client: KubeClient,
    resource: Resource,
    wanted: Object,
    made: set[tuple[str, str]],
    *,
    force: bool,
) -> Item:
    namespace = wanted["metadata"].get("namespace", "")
    before = client.find(resource, name_of(wanted), namespace=namespace)
    try:
        after, force = _dry_run(client, resource, wanted, force=force)
    except NamespaceMissing:
        if ("Namespace", namespace) not in made:
            raise
        return Item(resource, wanted, None, None, Change(Effect.NEW_CLUSTER))
    return Item(resource, wanted, before, after, _change(before, after), force)


def _dry_run(
    client: KubeClient, resource: Resource, wanted: Object, *, force: bool
) -> tuple[Object, bool]:
    """What an apply would make of an object, and whether it needs force.

    Fields that our own commands have written, such as `scale`, are no one else's, although to the
    API an apply and an update of the same manager are two.
    """
    try:
        return client.apply(resource, wanted, force=force, dry_run=True), force
    except FieldConflict as error:
        if not all(f'conflict with "{FIELD_MANAGER}"' in each for each in error.fields):
            raise
    return client.apply(resource, wanted, force=True, dry_run=True), True


def _change(before: Object | None, after: Object) -> Change:
    if before is None:
        return Change(Effect.NEW_CLUSTER)
    if after["kind"] == "RayService":
        return change_of(before.get("spec"), after["spec"])
    same = difference(before, after) == ""
    return Change(Effect.NOTHING if same else Effect.IN_PLACE)


def _document(items: Sequence[Item], *, applied: Sequence[str]) -> Mapping[str, Any]:
    rows = [
        {
            "kind": item.wanted["kind"],
            "name": name_of(item.wanted),
            "action": item.action,
            "effect": item.change.effect.value,
            "fields": item.change.fields,
            "applied": item.title in applied,
        }
        for item in items
    ]
    return {"objects": rows}
