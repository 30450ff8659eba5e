"""Names of tenants as labels of metrics, of which there may be only so many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.core.types import TenantId

MAX_TENANTS = 200
"""Each label value costs Prometheus a few kilobytes per metric, for as long as it keeps data."""
OTHERS = "other"


class TenantLabels:
    """Gives the first `MAX_TENANTS` tenants their own names, and all later ones `OTHERS`.

    >>> labels = TenantLabels(most=2)
    >>> [labels.of(TenantId(name)) for name in ("ann", "bob", "eve", "ann")]
    ['ann', 'bob', 'other', 'ann']
    """

    def __init__(self, *, most: int = MAX_TENANTS) -> None:
        self._most = most
        self._known: set[TenantId] = set()

    def of(self, tenant: TenantId) -> str:
        """The label of one tenant, the same each time."""
        if tenant not in self._known and len(self._known) < self._most:
            self._known.add(tenant)
        return tenant if tenant in self._known else OTHERS


class TenantClasses:
    """Which class each tenant is of.

    >>> TenantClasses({"gold": ["ann"]}).of(TenantId("ann"))
    'gold'
    >>> TenantClasses({"gold": ["ann"]}).of(TenantId("bob"))
    ''
    """

    def __init__(self, classes: Mapping[str, Sequence[str]]) -> None:
        self.by_tenant = {
            TenantId(tenant): name for name, tenants in classes.items() for tenant in tenants
        }

    def of(self, tenant: TenantId) -> str:
        """The tenant's class; empty for those of none."""
        return self.by_tenant.get(tenant, "")
