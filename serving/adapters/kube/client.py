"""Reading and writing objects: `KubeClient`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serving.adapters.kube.connection import Connection
from serving.adapters.kube.failures import (
    Attempt,
    Conflict,
    KindMissing,
    ObjectMissing,
    VersionExpired,
    kind_missing,
)
from serving.adapters.kube.resources import NAMESPACES, PODS, Resource
from serving.adapters.kube.retrying import delay_s
from serving.adapters.kube.transport import Body, Pacing, Transport
from serving.errors import ConfigError

FIELD_MANAGER = "galerne"
"""As whom Galerne's commands own the fields they set."""

Object = dict[str, Any]

_PAGE = 500
_MOST_CONFLICTS = 10
"""Writers that go on losing this often stand against a controller, not against chance."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects and the version they were read at, from which a watch goes on."""

    items: list[Object]
    version: str


class KubeClient:
    """Objects of one cluster. Every call ends within its time; failures are of `failures.py`.

    Args:
        connection: where and as whom.
        timeout_s: for each call, its repetitions included.
        pacing: time and chance.
    """

    def __init__(
        self, connection: Connection, *, timeout_s: float = 30.0, pacing: Pacing | None = None
    ) -> None:
        self.transport = Transport(connection, timeout_s=timeout_s, pacing=pacing)
        self.server_time: datetime | None = None
        """What the server's clock read at its last answer."""
        self.page_size = _PAGE
        """Objects that one answer to a list holds at most."""
        self._kinds: dict[str, dict[str, Resource]] = {}

    def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        """One object.

        Raises:
            ObjectMissing: there is none of that name.
        """
        return self._call(Attempt("get", resource, _scope(resource, namespace), name))

    def find(self, resource: Resource, name: str, *, namespace: str = "") -> Object | None:
        """One object; `None` if there is no such object or kind."""
        try:
            return self.get(resource, name, namespace=namespace)
        except (ObjectMissing, KindMissing):
            return None

    def list(
        self, resource: Resource, *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> Listing:
        """All objects of a kind in a namespace, or everywhere, that the selectors match."""
        attempt = Attempt("list", resource, _scope(resource, namespace))
        query = selection(labels, fields)
        try:
            return self._pages(attempt, resource, query | {"limit": str(self.page_size)})
        except VersionExpired:  # between two pages; a list in one piece cannot
            return self._pages(attempt, resource, query)

    def _pages(self, attempt: Attempt, resource: Resource, query: Mapping[str, str]) -> Listing:
        items: list[Object] = []
        following = ""
        while True:
            page = self._call(
                attempt, query={**query, "continue": following} if following else query
            )
            items += [_typed(each, resource) for each in page["items"]]
            following = page["metadata"].get("continue") or ""
            if not following:
                return Listing(items, page["metadata"]["resourceVersion"])

    def create(
        self, resource: Resource, value: Mapping[str, Any], *, namespace: str = ""
    ) -> Object:
        """The new object.

        Raises:
            Conflict: there is one of that name.
        """
        attempt = Attempt("create", resource, _scope(resource, namespace))
        return self._call(attempt, query=_written(), body=Body(dict(value)))

    def replace(self, resource: Resource, value: Mapping[str, Any]) -> Object:
        """The object as given, if it is still of the version that `value` names.

        Raises:
            Conflict: it is not.
        """
        metadata = value["metadata"]
        attempt = Attempt("update", resource, metadata.get("namespace", ""), metadata["name"])
        return self._call(attempt, query=_written(), body=Body(dict(value)))

    def modify(
        self, resource: Resource, name: str, change: Callable[[Object], Object], *,
        namespace: str = "",
    ) -> Object:  # fmt: skip
        """The object after `change`, which is done again when somebody else was faster.

        `change` gets a copy it may alter. Nothing is written if it alters nothing.

        Raises:
            Conflict: somebody else was faster every time.
        """
        pacing = self.transport.pacing
        for failures in range(1, _MOST_CONFLICTS + 1):
            before = self.get(resource, name, namespace=namespace)
            after = change(copy.deepcopy(before))
            if after == before:
                return before
            try:
                return self.replace(resource, after)
            except Conflict:
                if failures == _MOST_CONFLICTS:
                    raise
                pacing.sleep(delay_s(failures, retry_after_s=None, random=pacing.random()))
        raise AssertionError("the last conflict is raised")

    def merge(
        self, resource: Resource, name: str, patch: Mapping[str, Any], *, namespace: str = "",
        subresource: str = "",
    ) -> Object:  # fmt: skip
        """The object after a merge patch, whatever its version."""
        attempt = Attempt("patch", resource, _scope(resource, namespace), name, subresource)
        body = Body(dict(patch), "application/merge-patch+json")
        return self._call(attempt, query=_written(), body=body)

    def apply(
        self, resource: Resource, value: Mapping[str, Any], *, force: bool = False,
        dry_run: bool = False,
    ) -> Object:  # fmt: skip
        """The object after a server-side apply as manager `galerne`.

        Raises:
            FieldConflict: others own fields that it would change, and `force` is not set.
        """
        metadata = value["metadata"]
        namespace = _scope(resource, metadata.get("namespace", ""))
        query = _written() | {"force": str(force).lower()}
        if dry_run:
            query["dryRun"] = "All"
        attempt = Attempt("patch", resource, namespace, metadata["name"], is_apply=True)
        body = Body(dict(value), "application/apply-patch+yaml")
        return self._call(attempt, query=query, body=body)

    def delete(
        self, resource: Resource, name: str, *, namespace: str = "", uid: str | None = None
    ) -> None:
        """The object is gone or going; one that is not there is gone.

        Raises:
            Conflict: the object of that name is not the one with this uid.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        attempt = Attempt("delete", resource, _scope(resource, namespace), name)
        try:
            self._call(attempt, body=Body(options))
        except ObjectMissing:
            return

    def evict(self, name: str, *, namespace: str) -> None:
        """The pod is asked to go, as its disruption budgets allow; one that is gone is gone.

        Raises:
            BudgetForbids: not now.
        """
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        }
        try:
            self._call(Attempt("create", PODS, namespace, name, "eviction"), body=Body(eviction))
        except ObjectMissing:
            return

    def resource_for(self, api_version: str, kind: str) -> Resource:
        """How the cluster addresses a kind.

        Raises:
            KindMissing: it has none of that name and version.
        """
        if api_version not in self._kinds:
            self._kinds[api_version] = self._discover(api_version, kind)
        found = self._kinds[api_version].get(kind)
        if found is None:
            raise kind_missing(Attempt("get", Resource(api_version, kind, plural="")))
        return found

    def has_namespace(self, namespace: str) -> bool:
        """Whether there is such a namespace. Taken for granted by those who may not ask."""
        try:
            return self.find(NAMESPACES, namespace) is not None
        except ConfigError as error:
            if error.code != "kube_forbidden":
                raise
            return True

    def _discover(self, api_version: str, kind: str) -> dict[str, Resource]:
        try:
            rows = self._call(Attempt("get", None, name=api_version))["resources"]
        except KindMissing:
            raise kind_missing(Attempt("get", Resource(api_version, kind, plural=""))) from None
        return {
            row["kind"]: Resource(api_version, row["kind"], row["name"], row["namespaced"])
            for row in rows
            if "/" not in row["name"]
        }

    def _call(
        self, attempt: Attempt, *, query: Mapping[str, str] | None = None, body: Body | None = None
    ) -> Object:
        answer = self.transport.call(attempt, query=query, body=body)
        self.server_time = answer.server_time or self.server_time
        return answer.document


def selection(labels: str, fields: str) -> dict[str, str]:
    """The query of a selection."""
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in given.items() if value}


def _written() -> dict[str, str]:
    """The query of every write: misspelt fields are refused, not dropped."""
    return {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}


def _scope(resource: Resource, namespace: str) -> str:
    return namespace if resource.namespaced else ""


def _typed(value: Object, resource: Resource) -> Object:
    """A listed object; lists of built-in kinds leave out what each is."""
    return {"apiVersion": resource.api_version, "kind": resource.kind} | value
