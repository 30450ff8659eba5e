"""Whether pods still fit into the quotas of their namespace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from serving.operations.quantities import to_number, to_text
from serving.operations.snapshot import Object, at

_OF_SERVERS = frozenset({"NotTerminating", "NotBestEffort"})
"""Scopes of quotas that pods have which run without end and ask for resources, as Ray's do."""


def exceeded(quotas: Sequence[Object], pod_specs: Sequence[Object]) -> tuple[str, ...]:
    """What a quota would not grant if these pods came on top of what there is, in words.

    Source: kubernetes.io, Resource Quotas.

    >>> quota = {"metadata": {"name": "team"}, "status": {
    ...     "hard": {"requests.nvidia.com/gpu": "4"}, "used": {"requests.nvidia.com/gpu": "3"}}}
    >>> pod = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 2}}}]}
    >>> exceeded([quota], [pod])
    ('quota team: requests.nvidia.com/gpu needs 2 more, 1 of 4 is left',)
    """
    return tuple(complaint for quota in quotas for complaint in _complaints(quota, pod_specs))


def _complaints(quota: Object, pod_specs: Sequence[Object]) -> Iterator[str]:
    needed: dict[str, float] = defaultdict(float)
    for pod_spec in pod_specs:
        if _counts(quota, pod_spec):
            for name, amount in _charges(pod_spec).items():
                needed[name] += amount
    used: Mapping[str, str] = at(quota, "status", "used") or {}
    for name, limit in (at(quota, "status", "hard") or {}).items():
        left = to_number(limit) - to_number(used.get(name))
        if needed[name] > max(left, 0.0):
            title = f"quota {quota['metadata']['name']}: {name}"
            more, rest = _shown(needed[name]), _shown(max(left, 0.0))
            yield f"{title} needs {more} more, {rest} of {limit} is left"


def _shown(amount: float) -> str:
    """An amount of devices, cores or bytes."""
    return to_text(amount) if amount >= 1024 else f"{amount:g}"


def _counts(quota: Object, pod_spec: Object) -> bool:
    """Whether a quota is about such a pod. One of scopes that are not known here is not."""
    if not _OF_SERVERS.issuperset(at(quota, "spec", "scopes") or ()):
        return False
    rules = at(quota, "spec", "scopeSelector", "matchExpressions") or ()
    return all(_is_in_scope(rule, pod_spec) for rule in rules)


def _is_in_scope(rule: Object, pod_spec: Object) -> bool:
    if rule["scopeName"] in _OF_SERVERS:
        return True
    if rule["scopeName"] != "PriorityClass":
        return False
    given, values = pod_spec.get("priorityClassName"), rule.get("values") or ()
    operators = {
        "In": given in values,
        "NotIn": given not in values,
        "Exists": bool(given),
        "DoesNotExist": not given,
    }
    return operators.get(rule["operator"], False)


def _charges(pod_spec: Object) -> Mapping[str, float]:
    """What a pod takes of each kind of quota."""
    requests = _resources(pod_spec, "requests", "limits")
    limits = _resources(pod_spec, "limits")
    charges: dict[str, float] = {"pods": 1, "count/pods": 1}
    charges |= {f"requests.{name}": amount for name, amount in requests.items()}
    charges |= {f"limits.{name}": amount for name, amount in limits.items()}
    # The old names of what is requested.
    charges |= {name: requests[name] for name in ("cpu", "memory") if name in requests}
    return charges


def _resources(pod_spec: Object, *kinds: str) -> dict[str, float]:
    """A pod's resources: what its containers have together, or its largest init container.

    Of each resource the first kind counts that names it: what is limited and not requested is
    requested.
    """
    found: dict[str, float] = defaultdict(float)
    for container in pod_spec.get("containers") or ():
        for name, amount in _of_container(container, kinds).items():
            found[name] += amount
    for container in pod_spec.get("initContainers") or ():
        for name, amount in _of_container(container, kinds).items():
            found[name] = max(found[name], amount)
    return found


def _of_container(container: Object, kinds: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind in reversed(kinds):
        given = at(container, "resources", kind) or {}
        found |= {name: to_number(amount) for name, amount in given.items()}
    return found
