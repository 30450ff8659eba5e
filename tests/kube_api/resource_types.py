"""Which kinds of objects the server has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResourceType:
    """One kind as the API serves it.

    `has_generation`: the server counts changes of its specification.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    subresources: tuple[str, ...] = ()
    has_generation: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """The name that messages use, such as `rayservices.ray.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources


def _custom(group: str, kind: str, version: str = "v1") -> ResourceType:
    return ResourceType(
        group, version, kind, f"{kind.lower()}s", subresources=("status",), has_generation=True
    )


_RBAC = "rbac.authorization.k8s.io"

BUILT_IN = (
    ResourceType("", "v1", "Namespace", "namespaces", False, ("status",)),
    ResourceType("", "v1", "Node", "nodes", False, ("status",)),
    ResourceType("", "v1", "Pod", "pods", True, ("status", "eviction"), has_generation=True),
    ResourceType("", "v1", "ConfigMap", "configmaps"),
    ResourceType("", "v1", "Secret", "secrets"),
    ResourceType("", "v1", "ServiceAccount", "serviceaccounts", True, ("token",)),
    ResourceType("", "v1", "Service", "services", True, ("status",)),
    ResourceType("", "v1", "Event", "events"),
    ResourceType("", "v1", "ResourceQuota", "resourcequotas", True, ("status",)),
    ResourceType("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", True, ("status",)),
    ResourceType(_RBAC, "v1", "Role", "roles"),
    ResourceType(_RBAC, "v1", "RoleBinding", "rolebindings"),
    ResourceType(_RBAC, "v1", "ClusterRole", "clusterroles", False),
    ResourceType(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", False),
    ResourceType(
        "networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", has_generation=True
    ),
    ResourceType("apps", "v1", "Deployment", "deployments", True, ("status",), has_generation=True),
    ResourceType(
        "policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", True, ("status",),
        has_generation=True,
    ),
    ResourceType("coordination.k8s.io", "v1", "Lease", "leases"),
    ResourceType(
        "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions",
        False, ("status",), has_generation=True,
    ),
)  # fmt: skip
RAY = (_custom("ray.io", "RayCluster"), _custom("ray.io", "RayService"))
MONITORING = (
    _custom("monitoring.coreos.com", "PodMonitor"),
    _custom("monitoring.coreos.com", "ScrapeConfig", "v1alpha1"),
)
