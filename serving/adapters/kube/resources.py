"""Kinds of objects and their addresses."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, as the API addresses it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the core one."""
        return self.api_version.partition("/")[0] if "/" in self.api_version else ""

    @property
    def qualified(self) -> str:
        """The name that messages and roles use.

        >>> RAY_SERVICES.qualified, PODS.qualified
        ('rayservices.ray.io', 'pods')
        """
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The address of an object, of a part of it, or of all in a namespace or everywhere.

        >>> RAY_SERVICES.path("prod", "galerne", "status")
        '/apis/ray.io/v1/namespaces/prod/rayservices/galerne/status'
        >>> NODES.path("prod"), PODS.path()
        ('/api/v1/nodes', '/api/v1/pods')
        """
        parts = [version_path(self.api_version)]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)


def version_path(api_version: str) -> str:
    """Where a version's kinds are.

    >>> version_path("v1"), version_path("apps/v1")
    ('/api/v1', '/apis/apps/v1')
    """
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


RAY_SERVICES = Resource("ray.io/v1", "RayService", "rayservices")
RAY_CLUSTERS = Resource("ray.io/v1", "RayCluster", "rayclusters")
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
SECRETS = Resource("v1", "Secret", "secrets")
PODS = Resource("v1", "Pod", "pods")
NODES = Resource("v1", "Node", "nodes", namespaced=False)
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
QUOTAS = Resource("v1", "ResourceQuota", "resourcequotas")
EVENTS = Resource("v1", "Event", "events")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments")
DEFINITIONS = Resource(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions",
    namespaced=False,
)  # fmt: skip
POD_MONITORS = Resource("monitoring.coreos.com/v1", "PodMonitor", "podmonitors")
SCRAPE_CONFIGS = Resource("monitoring.coreos.com/v1alpha1", "ScrapeConfig", "scrapeconfigs")
