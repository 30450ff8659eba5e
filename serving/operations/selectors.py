"""Whether labels are as a selector wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.operations.snapshot import Object


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches. An empty one matches all.

    Source: kubernetes.io, LabelSelector.

    >>> ray = {"ray.io/node-type": "head"}
    >>> rule = {"key": "ray.io/node-type", "operator": "In", "values": ["head", "worker"]}
    >>> selects({"matchExpressions": [rule]}, ray), selects({"matchLabels": {"app": "x"}}, ray)
    (True, False)
    """
    wanted: Mapping[str, str] = selector.get("matchLabels") or {}
    rules: Sequence[Object] = selector.get("matchExpressions") or ()
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        holds(rule, labels) for rule in rules
    )


def holds(rule: Object, labels: Mapping[str, str]) -> bool:
    """Whether one expression of a selector does. `Gt` and `Lt` are those of node selectors.

    >>> memory = {"key": "gpu-gib", "operator": "Gt", "values": ["40"]}
    >>> holds(memory, {"gpu-gib": "80"}), holds(memory, {"gpu-gib": "40"}), holds(memory, {})
    (True, False, False)
    """
    value: str | None = labels.get(rule["key"])
    values: Sequence[str] = rule.get("values") or ()
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return _is_less(values[0], value)
        case "Lt":
            return _is_less(value, values[0])
    return False


def _is_less(low: str | None, high: str | None) -> bool:
    try:
        return low is not None and high is not None and int(low) < int(high)
    except ValueError:
        return False
