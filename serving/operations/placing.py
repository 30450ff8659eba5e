"""Whether a node takes a pod, room apart."""

from __future__ import annotations

from collections.abc import Sequence

from serving.operations.selectors import holds
from serving.operations.snapshot import Object, at, condition, labels_of, name_of

_KEEPING_OUT = ("NoSchedule", "NoExecute")


def takes(node: Object, pod_spec: Object) -> bool:
    """Whether the scheduler may put a pod there: the node is ready and not cordoned, the pod
    tolerates its taints, and its node selector and required node affinity match.

    Rules about other pods are not looked at: affinity to them, spreading over zones.

    Source: kubernetes.io, Assigning Pods to Nodes; Taints and Tolerations.
    """
    selector = pod_spec.get("nodeSelector") or {}
    return (
        is_open(node)
        and selector.items() <= labels_of(node).items()
        and _is_wanted(node, pod_spec)
        and not untolerated(node, pod_spec)
    )


def is_open(node: Object) -> bool:
    """Whether it is ready and not cordoned."""
    return (
        not at(node, "spec", "unschedulable") and condition(node, "Ready").get("status") == "True"
    )


def untolerated(node: Object, pod_spec: Object) -> tuple[str, ...]:
    """Keys of the taints that keep a pod off a node.

    >>> node = {"spec": {"taints": [{"key": "gpu", "value": "a", "effect": "NoSchedule"}]}}
    >>> untolerated(node, {}), untolerated(node, {"tolerations": [{"operator": "Exists"}]})
    (('gpu',), ())
    """
    tolerations: Sequence[Object] = pod_spec.get("tolerations") or ()
    return tuple(
        taint["key"]
        for taint in at(node, "spec", "taints") or ()
        if taint["effect"] in _KEEPING_OUT
        and not any(_tolerates(each, taint) for each in tolerations)
    )


def _tolerates(toleration: Object, taint: Object) -> bool:
    key, effect = toleration.get("key"), toleration.get("effect")
    if (effect and effect != taint["effect"]) or (key and key != taint["key"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(key) and (toleration.get("value") or "") == (taint.get("value") or "")


def _is_wanted(node: Object, pod_spec: Object) -> bool:
    """Whether one term of the required node affinity matches; there may be none."""
    required = at(
        pod_spec, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return required is None or any(
        _matches(term, node) for term in required.get("nodeSelectorTerms") or ()
    )


def _matches(term: Object, node: Object) -> bool:
    rules: Sequence[Object] = term.get("matchExpressions") or ()
    fields: Sequence[Object] = term.get("matchFields") or ()
    # The one field there is; a term without any rule matches nothing.
    name = {"metadata.name": name_of(node)}
    return (
        bool(rules or fields)
        and all(holds(rule, labels_of(node)) for rule in rules)
        and all(holds(rule, name) for rule in fields)
    )
