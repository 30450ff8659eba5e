"""Classes of tenants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.core.types import TenantId


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
