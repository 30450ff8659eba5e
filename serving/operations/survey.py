"""What `galerne k8s doctor` looks at, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from serving.operations.snapshot import Object, Snapshot


class Severity(StrEnum):
    """An error stops something; a warning will."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, why, and how to mend it."""

    code: str
    severity: Severity
    what: str
    why: str
    mend: str


@dataclass(frozen=True, slots=True)
class Survey:
    """A platform and what of the cluster it depends on. `None`: there is none, or we may not look.

    `definitions` are CRDs by name, `operators` the Deployments of KubeRay, `secret_keys` those in
    the Secret `secret_name`, `missing_secrets` the other Secrets that pods name and that are not
    there, `monitors` PodMonitors and ScrapeConfigs of the namespace (`None` without those kinds),
    `targets` what Prometheus scrapes, as it says itself (`None`: it was not asked), `events` the
    namespace's, `leases` those of nodes, `unread` what we may not read. `server_time` is the API
    server's, `read_at` ours.
    """

    snapshot: Snapshot
    definitions: Mapping[str, Object | None] = field(default_factory=dict)
    operators: Sequence[Object] | None = None
    settings: Mapping[str, Any] | None = None
    secret_name: str = ""
    secret_keys: frozenset[str] | None = None
    missing_secrets: frozenset[str] = frozenset()
    has_namespace: bool = True
    monitors: Sequence[Object] | None = None
    targets: Sequence[Object] | None = None
    events: Sequence[Object] = ()
    leases: Sequence[Object] = ()
    server_time: datetime | None = None
    read_at: datetime | None = None
    unread: frozenset[str] = frozenset()


def error(code: str, what: str, *, why: str, mend: str) -> Finding:
    """A finding that stops something."""
    return Finding(code, Severity.ERROR, what, why, mend)


def warning(code: str, what: str, *, why: str, mend: str) -> Finding:
    """A finding that will stop something, or hide that something stopped."""
    return Finding(code, Severity.WARNING, what, why, mend)
