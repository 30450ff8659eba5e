"""Which pods of a node go, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serving.operations.snapshot import TYPE_LABEL, Object, at, labels_of, name_of


@dataclass(frozen=True, slots=True)
class Progress:
    """How a drain stands: pods still there by what keeps them, and pods that are gone."""

    gone: tuple[str, ...] = ()
    ending: tuple[str, ...] = ()
    held: Mapping[str, str] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return not self.ending and not self.held

    def describe(self) -> str:
        """The progress in words.

        >>> Progress(("a",), ("b",), {"c": "budget x"}).describe()
        '1 gone, b finish their requests, c held back: budget x'
        """
        parts = [f"{len(self.gone)} gone"]
        if self.ending:
            parts.append(f"{', '.join(self.ending)} finish their requests")
        parts += [f"{pod} held back: {why}" for pod, why in self.held.items()]
        return ", ".join(parts)


def must_wait(pod: Object, pods: Iterable[Object]) -> bool:
    """Whether a pod is to go after others of the node: a head that goes early takes the controller
    along that moves the workers' replicas."""
    workers = (each for each in pods if labels_of(each).get(TYPE_LABEL) == "worker")
    return labels_of(pod).get(TYPE_LABEL) == "head" and any(workers)


def drain_order(pods: Iterable[Object]) -> tuple[Object, ...]:
    """Ray's pods, workers first."""
    ours = [each for each in pods if TYPE_LABEL in labels_of(each)]
    return tuple(sorted(ours, key=lambda p: (labels_of(p)[TYPE_LABEL] == "head", name_of(p))))


def is_ending(pod: Object) -> bool:
    """Whether a pod has been told to go."""
    return at(pod, "metadata", "deletionTimestamp") is not None


def has_head(pods: Iterable[Object]) -> bool:
    """Whether a head is among the pods: without its state in Redis, the whole cluster restarts."""
    return any(labels_of(each).get(TYPE_LABEL) == "head" for each in pods)
