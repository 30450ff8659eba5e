"""Evicting a pod: deleted, unless a disruption budget says no."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kube_api.resource_types import BUILT_IN
from kube_api.selectors import Matches
from kube_api.status_bodies import disruption_budget
from kube_api.store import Key, Object, Store

_BUDGETS = next(each for each in BUILT_IN if each.kind == "PodDisruptionBudget")


def evict(store: Store, key: Key, *, dry_run: bool) -> None:
    """The pod is gone, and its budget's `disruptionsAllowed` one less.

    The controller that raises it again is not here: tests write the status.

    Raises:
        ApiError: 404; 429, a budget forbids it.
    """
    pod = store.get(key)
    _, budgets = store.list(_BUDGETS, key[1], lambda _: True)
    for budget in budgets:
        if not _selects(budget["spec"].get("selector", {}))(pod):
            continue
        status = budget.get("status", {})
        if not status.get("disruptionsAllowed"):
            raise disruption_budget(
                budget["metadata"]["name"],
                status.get("desiredHealthy", 0),
                status.get("currentHealthy", 0),
            )
        if not dry_run:
            store.update((_BUDGETS, key[1], budget["metadata"]["name"]), _one_less)
    store.delete(key, dry_run=dry_run)


def _selects(selector: Mapping[str, Any]) -> Matches:
    wanted = selector.get("matchLabels", {}).items()
    return lambda pod: wanted <= (pod["metadata"].get("labels") or {}).items()


def _one_less(budget: Object) -> Object:
    budget["status"]["disruptionsAllowed"] -= 1
    return budget
