"""Who may do what: roles and their bindings, as the server's RBAC authorizer reads them.

Source: kubernetes.io, Using RBAC Authorization.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kube_api.resource_types import BUILT_IN
from kube_api.status_bodies import ApiError, forbidden
from kube_api.store import Store

ADMINISTRATOR = "tester"
"""May do anything."""

_KINDS = {each.kind: each for each in BUILT_IN}
Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A verb and what it is about; only names of the address, whether or not it is served."""

    verb: str
    group: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def resource(self) -> str:
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural


def account_name(namespace: str, name: str) -> str:
    """The user that a ServiceAccount is."""
    return f"system:serviceaccount:{namespace}:{name}"


def authorize(store: Store, user: str, asked: Asked) -> None:
    """Return if the user may.

    Raises:
        ApiError: 403.
    """
    if not may(store, user, asked):
        raise refusal(user, asked)


def may(store: Store, user: str, asked: Asked) -> bool:
    """Whether a role that is bound to the user allows it."""
    if user == ADMINISTRATOR:
        return True
    return any(_allows(rule, asked) for rule in _rules(store, user, asked.namespace))


def refusal(user: str, asked: Asked) -> ApiError:
    """The answer to one who may not."""
    where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    return forbidden(
        asked.group, asked.plural, asked.name,
        f'User "{user}" cannot {asked.verb} resource "{asked.resource}" in API group '
        f'"{asked.group}" {where}',
    )  # fmt: skip


def _rules(store: Store, user: str, namespace: str) -> Iterator[Rule]:
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        where = namespace if kind == "RoleBinding" else ""
        if kind == "RoleBinding" and not namespace:
            continue
        for binding in store.list(_KINDS[kind], where, lambda _: True)[1]:
            if any(_is(subject, user) for subject in binding.get("subjects") or ()):
                reference = binding["roleRef"]
                role_namespace = namespace if reference["kind"] == "Role" else ""
                key = (_KINDS[reference["kind"]], role_namespace, reference["name"])
                yield from _rules_of(store, key)


def _rules_of(store: Store, key: Any) -> Iterator[Rule]:
    try:
        yield from store.get(key).get("rules") or ()
    except ApiError:  # a binding to a role that is not there
        return


def _is(subject: Mapping[str, Any], user: str) -> bool:
    if subject["kind"] == "ServiceAccount":
        return account_name(subject["namespace"], subject["name"]) == user
    return subject["kind"] == "User" and subject["name"] == user


def _allows(rule: Rule, asked: Asked) -> bool:
    def has(field: str, value: str) -> bool:
        return not {"*", value}.isdisjoint(rule.get(field) or ())

    names = rule.get("resourceNames")
    return (
        has("verbs", asked.verb)
        and has("apiGroups", asked.group)
        and has("resources", asked.resource)
        and (not names or asked.name in names)
    )
