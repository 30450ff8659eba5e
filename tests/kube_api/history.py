"""What has happened, as far back as watches may ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kube_api.resource_types import ResourceType
from kube_api.status_bodies import expired


@dataclass(frozen=True, slots=True)
class Change:
    """One event. `before` is `None` for an object that is new."""

    version: int
    resource: ResourceType
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class History:
    """The changes so far, and the version that each one made."""

    def __init__(self) -> None:
        self._changes: list[Change] = []
        self.version = 1000
        """The latest resource version."""
        self._oldest = 1000

    def next_version(self) -> int:
        """A version that is newer than all before."""
        self.version += 1
        return self.version

    def note(self, change: Change) -> None:
        """Remember a change."""
        self._changes.append(change)

    def since(self, resource: ResourceType, version: int) -> list[Change]:
        """What has happened to one kind since a version.

        Raises:
            ApiError: 410, that is forgotten.
        """
        if version < self._oldest:
            raise expired(version, self._oldest)
        return [c for c in self._changes if c.version > version and c.resource == resource]

    def compact(self) -> None:
        """Forget what has been: watches from older versions have expired."""
        # A version of its own, so that even the latest one a client can know has expired.
        self._oldest = self.next_version()
        self._changes.clear()
