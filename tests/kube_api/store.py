"""The objects, their versions and their history. Thread-safe; knows nothing of HTTP."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from threading import RLock
from typing import Any

from kube_api.history import Change, History
from kube_api.kinds import DEFINITIONS, Kinds, Object
from kube_api.ownership import Manager, Owners, after_apply, after_update, to_managed_fields
from kube_api.resource_types import ResourceType
from kube_api.selectors import Matches
from kube_api.status_bodies import (
    already_exists,
    bad_request,
    conflict,
    invalid,
    not_found,
    untyped_patch,
    wrong_uid,
)  # fmt: skip

Key = tuple[ResourceType, str, str]
"""Kind, namespace (empty for kinds without) and name."""

_KEPT = ("uid", "creationTimestamp", "deletionTimestamp", "namespace", "name")
SETUP = Manager("setup", "Update")
"""Who made what a test puts there itself."""


class Store:
    """All objects of one server."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._lock = RLock()
        self._objects: dict[Key, Object] = {}
        self._owners: dict[Key, Owners] = {}
        self._kinds = Kinds()
        self._history = History()
        self.on_change: Callable[[], None] = lambda: None

    @property
    def version(self) -> int:
        """The latest resource version."""
        return self._history.version

    @property
    def kinds(self) -> list[ResourceType]:
        """Built-in kinds, and custom ones whose definition is there."""
        return self._kinds.listed()

    def get(self, key: Key) -> Object:
        """One object.

        Raises:
            ApiError: 404.
        """
        with self._lock:
            if key not in self._objects:
                raise not_found(key[0], key[2])
            return self._read(key)

    def has(self, key: Key) -> bool:
        """Whether there is such an object."""
        return key in self._objects

    def list(
        self, resource: ResourceType, namespace: str, matches: Matches
    ) -> tuple[int, list[Object]]:
        """The version of the list and the objects, by namespace and name."""
        with self._lock:
            keys = sorted((key for key in self._objects if key[0] == resource), key=lambda k: k[1:])
            found = [self._read(key) for key in keys if namespace in ("", key[1])]
            return self._history.version, [each for each in found if matches(each)]

    def changes(self, resource: ResourceType, since: int) -> list[Change]:
        """What has happened to one kind since a version.

        Raises:
            ApiError: 410, the history no longer goes back so far.
        """
        with self._lock:
            return self._history.since(resource, since)

    def compact(self) -> None:
        """Forget the history: watches from older versions have expired."""
        with self._lock:
            self._history.compact()
        self.on_change()

    def create(
        self, key: Key, value: Mapping[str, Any], *, manager: Manager = SETUP,
        strict: bool = False, dry_run: bool = False,
    ) -> Object:  # fmt: skip
        """The new object.

        Raises:
            ApiError: 409, it is there; 400 or 422, it breaks its schema.
        """
        with self._lock:
            if key in self._objects:
                raise already_exists(key[0], key[2])
            new = self._kinds.decoded(key[0], value, strict=strict)
            if key[0].has_status and manager is not SETUP:
                new.pop("status", None)
            owners = after_update({}, new, {}, manager, schema=self._kinds.schema(key[0]))
            return self._write(key, None, new, owners=owners, dry_run=dry_run)

    def update(
        self, key: Key, change: Callable[[Object], Mapping[str, Any]], *,
        manager: Manager = SETUP, subresource: str = "", strict: bool = False,
        dry_run: bool = False,
    ) -> Object:  # fmt: skip
        """The object after `change`, of which only the status counts, or all but the status.

        Raises:
            ApiError: 404; 409, the change was made on another version; 400 or 422.
        """
        with self._lock:
            before = self.get(key)
            changed = self._kinds.decoded(key[0], change(copy.deepcopy(before)), strict=strict)
            self._check_version(key, before, changed)
            new = self._part(key[0], before, changed, subresource, manager)
            owners = after_update(
                before, new, self._owners[key], manager, schema=self._kinds.schema(key[0])
            )
            return self._write(key, before, new, owners=owners, dry_run=dry_run)

    def apply(
        self, key: Key, applied: Mapping[str, Any], *, manager: Manager, force: bool,
        dry_run: bool = False,
    ) -> tuple[Object, bool]:  # fmt: skip
        """The object after a server-side apply, and whether it is new.

        Raises:
            ApiError: 409, of fields or of the version; 400 or 422.
        """
        with self._lock:
            before = self._read(key) if key in self._objects else None
            metadata = applied.get("metadata", {})
            if metadata.get("managedFields"):
                raise bad_request("metadata.managedFields must be nil")
            if before is not None:
                self._check_version(key, before, applied)
            elif metadata.get("uid"):
                raise conflict(key[0], key[2])
            given = {k: v for k, v in applied.items() if k != "status" or not key[0].has_status}
            self._check_patch(key, given)
            start: Object = before or {
                "apiVersion": key[0].api_version, "kind": key[0].kind, "metadata": {}
            }  # fmt: skip
            merged, owners = after_apply(
                start, self._owners.get(key, {}), applied=given, manager=manager, force=force,
                schema=self._kinds.schema(key[0]),
            )  # fmt: skip
            # Defaults come after the merge: who applies does not own them.
            new = self._kinds.decoded(key[0], merged, strict=False)
            return self._write(key, before, new, owners=owners, dry_run=dry_run), before is None

    def delete(self, key: Key, *, uid: str | None = None, dry_run: bool = False) -> Object:
        """The object as it was; with finalizers it stays, marked as going.

        Raises:
            ApiError: 404; 409, it is not the one with this uid.
        """
        with self._lock:
            before = self.get(key)
            if uid is not None and uid != before["metadata"]["uid"]:
                raise wrong_uid(key[0], key[2])
            if dry_run:
                return before
            if before["metadata"].get("finalizers"):
                return self.update(key, partial(_marked, at=self._time()))
            self._drop(key)
            if key[0].plural == "namespaces":
                for inner in [each for each in self._objects if each[1] == key[2]]:
                    self._drop(inner)
            return before

    def put(self, resource: ResourceType, value: Mapping[str, Any]) -> Object:
        """A test's own way to have an object as given, status included, new or not."""
        metadata = value["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        with self._lock:
            if key in self._objects:
                return self.update(key, lambda old: {**value, "metadata": {
                    **old["metadata"], **metadata}}, subresource="*")  # fmt: skip
            return self.create(key, value)

    def _read(self, key: Key) -> Object:
        return self._kinds.read(key[0], self._objects[key])

    def _drop(self, key: Key) -> None:
        gone = self._objects.pop(key)
        if key[0] == DEFINITIONS:
            self._kinds.redefine(gone, None)
        del self._owners[key]
        # A watch tells the object as it was, at the version of its end.
        version = self._history.next_version()
        gone["metadata"]["resourceVersion"] = str(version)
        self._note(Change(version, key[0], gone, None))

    def _check_version(self, key: Key, before: Object, given: Mapping[str, Any]) -> None:
        version = given.get("metadata", {}).get("resourceVersion")
        if version and version != before["metadata"]["resourceVersion"]:
            raise conflict(key[0], key[2])

    def _part(
        self, resource: ResourceType, before: Object, changed: Object, subresource: str,
        manager: Manager,
    ) -> Object:  # fmt: skip
        if not resource.has_status or subresource == "*" or (manager is SETUP and not subresource):
            return changed
        if subresource == "status":
            return {**before, "status": changed.get("status", {})}
        changed.pop("status", None)
        return changed | ({"status": before["status"]} if "status" in before else {})

    def _write(
        self, key: Key, before: Object | None, new: Object, *, owners: Owners, dry_run: bool
    ) -> Object:
        resource, name = key[0], key[2]
        new = {"apiVersion": resource.api_version, "kind": resource.kind, **new}
        if resource.plural == "secrets" and "stringData" in new:
            raise bad_request("the test server does not know stringData; write data")
        if before is not None and new.get("immutable") and before.get("data") != new.get("data"):
            raise invalid(resource, name, [("data", "Forbidden: field is immutable")])
        self._check_schema(key, new)
        new["metadata"] = metadata = self._metadata(key, before, new)
        same = before is not None and new == before and owners == self._owners[key]
        if same:
            return copy.deepcopy(new)  # The real server gives no new version to a write of nothing.
        metadata["managedFields"] = to_managed_fields(
            owners, api_version=resource.api_version, time=self._time()
        )
        if dry_run:
            return copy.deepcopy(new)
        version = self._history.next_version()
        metadata["resourceVersion"] = str(version)
        self._objects[key], self._owners[key] = new, owners
        if resource == DEFINITIONS:
            self._kinds.redefine(before, new)
        self._note(Change(version, resource, before, copy.deepcopy(new)))
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self._drop(key)
        return copy.deepcopy(new)

    def _metadata(self, key: Key, before: Object | None, new: Object) -> Object:
        """The metadata of a new version, still with the version and owners of the one before."""
        resource, namespace, name = key
        old = before["metadata"] if before else {}
        found = {
            **(new.get("metadata") or {}),
            **{field: old[field] for field in _KEPT if field in old},
            "name": name, **({"namespace": namespace} if namespace else {}),
            "resourceVersion": old.get("resourceVersion", ""),
            "managedFields": old.get("managedFields", []),
        }  # fmt: skip
        if before is None:
            found |= {"uid": str(uuid.uuid4()), "creationTimestamp": self._time()}
        if resource.has_generation:
            is_going = "deletionTimestamp" in found and "deletionTimestamp" not in old
            raised = _is_respecified(before, new) or is_going
            found["generation"] = old.get("generation", 0) + raised
        return found

    def _check_patch(self, key: Key, given: Object) -> None:
        """What is applied has only fields of the schema, each of its type."""
        found = self._kinds.complaints(key[0], given)
        wrong = [f".{each}: field not declared in schema" for each in found.unknown]
        wrong += [f".{path}: {complaint}" for path, complaint in found.mistyped]
        if wrong:
            raise untyped_patch(*key, ", ".join(wrong))

    def _check_schema(self, key: Key, new: Object) -> None:
        found = self._kinds.complaints(key[0], new)
        if found.mistyped or found.invalid:
            raise invalid(key[0], key[2], [*found.mistyped, *found.invalid])

    def _note(self, change: Change) -> None:
        self._history.note(change)
        self.on_change()

    def _time(self) -> str:
        return f"{self._now():%Y-%m-%dT%H:%M:%SZ}"


def _is_respecified(before: Object | None, new: Object) -> bool:
    """Whether anything but metadata and status is another one."""
    parts = ("metadata", "status")
    if before is None:
        return True
    return {k: v for k, v in before.items() if k not in parts} != {
        k: v for k, v in new.items() if k not in parts
    }


def _marked(value: Mapping[str, Any], *, at: str) -> dict[str, Any]:
    """The object, which waits for its finalizers to go."""
    return {**value, "metadata": {**value["metadata"], "deletionTimestamp": at}}
