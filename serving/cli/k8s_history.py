"""Versions of the platform: the one in force, the one that is kept, and putting one back."""

from __future__ import annotations

from typing import Any

from serving.adapters.kube.resources import CONFIG_MAPS, RAY_SERVICES
from serving.cli.k8s_bounds import pass_bounds_on
from serving.cli.k8s_options import Place
from serving.operations.snapshot import Object, Snapshot, history_name, name_of, settings_name
from serving.operations.upgrade_plan import Version, body_of, from_history, to_history, to_kept

_RESOURCES = {"ConfigMap": CONFIG_MAPS, "RayService": RAY_SERVICES}


def in_force(place: Place, snapshot: Snapshot) -> Version | None:
    """The version that a snapshot shows; nothing if there is no platform."""
    if snapshot.service is None:
        return None
    settings = place.client.find(CONFIG_MAPS, settings_name(place.name), namespace=place.namespace)
    found = [snapshot.service] if settings is None else [settings, snapshot.service]
    return tuple(to_kept(each) for each in found)


def kept(place: Place) -> Version | None:
    """The version that is kept for `rollback`; nothing if none is."""
    found = place.client.find(CONFIG_MAPS, history_name(place.name), namespace=place.namespace)
    return from_history(found)


def keep(place: Place, version: Version) -> None:
    """The version is what `rollback` goes back to."""
    history = to_history(history_name(place.name), place.namespace, version)
    place.client.apply(CONFIG_MAPS, history, force=True)


def restore(place: Place, version: Version) -> None:
    """The version is in force again; it may still have to come up."""
    for each in version:
        _put_back(place, each)
    service = place.client.find(RAY_SERVICES, place.name, namespace=place.namespace)
    if service is not None:
        pass_bounds_on(place.client, service)


def _put_back(place: Place, wanted: Object) -> None:
    """The object is as it was kept.

    Applied and not replaced: a later apply removes only fields that an apply has set.
    """

    def as_kept(live: dict[str, Any]) -> dict[str, Any]:
        rest = {key: live[key] for key in ("metadata", "status") if key in live}
        return body_of(wanted) | rest

    resource, name = _RESOURCES[wanted["kind"]], name_of(wanted)
    live = place.client.find(resource, name, namespace=place.namespace)
    if live is not None and to_kept(live) == wanted:
        return
    after = place.client.apply(resource, wanted, force=True)
    if body_of(after) != body_of(wanted):  # Others have added fields, which an apply leaves alone.
        place.client.modify(resource, name, as_kept, namespace=place.namespace)
