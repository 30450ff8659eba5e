"""The values of `helm/galerne`. What each means is said beside its default, in `values.yaml`.

Closed to unknown names: Helm itself refuses a typo, through the JSON schema that `generate.py`
makes of these models. Values without a default here have theirs in `values.yaml`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from serving.settings.platform import Settings
from serving.settings.section import PoolName

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTP]i?)?$")]
"""A Kubernetes quantity, such as `500m` or `4Gi`."""
Digest = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")]
RedisAddress = Annotated[str, StringConstraints(pattern=r"^((rediss?://)?[A-Za-z0-9.-]+:[0-9]+)?$")]
HttpUrl = Annotated[str, StringConstraints(pattern=r"^(https?://[^/]+.*)?$")]
Origin = Annotated[str, StringConstraints(pattern=r"^(https?://[^/]+)?$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*\.sha256$")]
Cidr = Annotated[str, StringConstraints(pattern=r"^[0-9.]+/[0-9]+$")]
GpuResource = Annotated[str, StringConstraints(pattern=r"gpu$|^nvidia\.com/mig-")]
"""What KubeRay counts as GPUs, and Ray then offers. Source: kuberay 1.7, `IsGPUResourceKey`."""
NotEmpty = Annotated[str, StringConstraints(min_length=1)]
Percent = Annotated[int, Field(ge=1, le=100)]
Labels = dict[str, str]
KubernetesObject = dict[str, Any]
"""Goes through as it is; the API server checks it."""


class _Values(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)


class SecretKey(_Values):
    name: str
    key: NotEmpty


class Image(_Values):
    repository: NotEmpty
    tag: str
    digest: Digest
    pull_policy: Literal["Always", "IfNotPresent", "Never"]
    pull_secrets: list[KubernetesObject]


class Secrets(_Values):
    existing: str
    create: bool


class Rbac(_Values):
    node_events: bool


class HeadResources(_Values):
    cpu: Quantity
    memory: Quantity


class Head(_Values):
    resources: HeadResources
    node_selector: Labels
    tolerations: list[KubernetesObject]
    priority_class_name: str


class PoolResources(_Values):
    cpu: int = Field(ge=1)
    memory: Quantity


class Pool(_Values):
    """A worker group: one kind of node."""

    name: PoolName
    resources: PoolResources
    gpus: int = Field(0, ge=0, le=64)
    gpu_resource: GpuResource = "nvidia.com/gpu"
    min_replicas: int = Field(0, ge=0)
    max_replicas: int | None = Field(None, ge=1)
    idle_timeout_seconds: int | None = Field(None, ge=1)
    shm_size: Quantity | None = None
    topology_spread: str = ""
    node_selector: Labels = {}
    tolerations: list[KubernetesObject] = []
    priority_class_name: str = ""
    runtime_class_name: str = ""


class BundledRedis(_Values):
    enabled: bool
    image: NotEmpty


class ExternalRedis(_Values):
    address: RedisAddress
    password_secret: SecretKey


class Redis(_Values):
    bundled: BundledRedis
    external: ExternalRedis


class UpgradeStrategy(_Values):
    type: Literal["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]
    gateway_class_name: str
    max_surge_percent: Percent
    step_size_percent: Percent
    interval_seconds: int = Field(ge=1)


class WeightsClaim(_Values):
    existing: str
    create: bool
    storage_class_name: str
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"]
    size: Quantity


class HuggingFace(_Values):
    enabled: bool
    endpoint: HttpUrl
    token_secret: SecretKey


class ObjectStorage(_Values):
    enabled: bool
    environment: dict[str, str]
    credentials_secret: str
    cidrs: list[Cidr]
    port: int = Field(ge=1, le=65535)


class Weights(_Values):
    claim: WeightsClaim
    empty_dir_size: Quantity
    manifests: dict[FileName, str]
    huggingface: HuggingFace
    object_storage: ObjectStorage


class IngressService(_Values):
    name: str
    port: int = Field(ge=1, le=65535)


class Ingress(_Values):
    enabled: bool
    class_name: str
    annotations: Labels
    host: str
    tls_secret: str
    service: IngressService


class HttpRoute(_Values):
    enabled: bool
    parent_refs: list[KubernetesObject]
    hostnames: list[str]


class Enabled(_Values):
    enabled: bool


class NetworkPolicy(_Values):
    enabled: bool
    clients: list[KubernetesObject]
    prometheus: list[KubernetesObject]
    operator: list[KubernetesObject] = Field(min_length=1)
    dns: list[KubernetesObject] = Field(min_length=1)
    cluster_cidrs: list[Cidr] = Field(min_length=1)


class Rules(_Values):
    enabled: bool
    labels: Labels
    runbook: NotEmpty


class Labelled(_Values):
    enabled: bool
    labels: Labels


class Scrape(_Values):
    enabled: bool
    labels: Labels
    endpoint: Origin
    token_secret: SecretKey


class Monitoring(_Values):
    rules: Rules
    dashboards: Labelled
    scrape: Scrape
    pod_monitor: Labelled


class ChartValues(_Values):
    """Every value of the chart."""

    settings: Settings
    image: Image
    secrets: Secrets
    rbac: Rbac
    head: Head
    pools: list[Pool] = Field(min_length=1)
    redis: Redis
    upgrade_strategy: UpgradeStrategy
    weights: Weights
    ingress: Ingress
    http_route: HttpRoute
    pod_disruption_budgets: Enabled
    network_policy: NetworkPolicy
    monitoring: Monitoring
    global_values: KubernetesObject = Field({}, alias="global")
