"""Following the objects of a kind: `watch`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from serving.adapters.kube.client import KubeClient, Object, selection
from serving.adapters.kube.failures import Attempt, Refusal, VersionExpired, to_error
from serving.adapters.kube.resources import Resource
from serving.adapters.kube.retrying import delay_s
from serving.errors import ClusterError

_STREAM_S = 300.0
"""The server ends a stream after so long, and it is asked for anew: a connection that died without
a word is noticed then at the latest."""
_SILENCE_MARGIN_S = 10.0


class Change(StrEnum):
    """What an event tells. `LISTED` replaces all that was known before."""

    LISTED = "listed"
    CHANGED = "changed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Event:
    """What has happened. Only `LISTED` has other than one object."""

    change: Change
    objects: tuple[Object, ...]


@dataclass
class _Position:
    version: str


def watch(
    client: KubeClient,
    resource: Resource,
    *,
    namespace: str = "",
    labels: str = "",
    fields: str = "",
    timeout_s: float,
) -> Iterator[Event]:
    """The objects as they are, then every change to them, until the time is over.

    Connections that break are taken up where they were; when the server has forgotten that place,
    all objects come again as `LISTED`, deletions in between included by their absence.

    Raises:
        ClusterError, ConfigError: it is refused; or nothing answers for the client's time limit.
    """
    pacing = client.transport.pacing
    ends_at = pacing.clock() + timeout_s
    attempt = Attempt("watch", resource, namespace if resource.namespaced else "")
    position: _Position | None = None
    failures, failing_since = 0, pacing.clock()
    while (left_s := ends_at - pacing.clock()) > 0:
        if position is None:
            listing = client.list(resource, namespace=namespace, labels=labels, fields=fields)
            position = _Position(listing.version)
            yield Event(Change.LISTED, tuple(listing.items))
        query = selection(labels, fields) | _place(position, left_s)
        try:
            for event in _events(client, attempt, query, position, left_s):
                failures, failing_since = 0, pacing.clock()
                yield event
            failures, failing_since = 0, pacing.clock()
        except VersionExpired:
            position = None
        except ClusterError as error:
            failures += 1
            too_long = pacing.clock() - failing_since > client.transport.timeout_s
            if too_long or not error.retryable:
                raise
            after_s = error.retry_after_s
            pacing.sleep(delay_s(failures, retry_after_s=after_s, random=pacing.random()))


def _place(position: _Position, left_s: float) -> dict[str, str]:
    return {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": position.version,
        "timeoutSeconds": str(max(1, round(min(left_s, _STREAM_S)))),
    }


def _events(
    client: KubeClient,
    attempt: Attempt,
    query: Mapping[str, str],
    position: _Position,
    left_s: float,
) -> Iterator[Event]:
    """The events of one connection; `position` moves along."""
    silence_s = min(left_s, _STREAM_S) + _SILENCE_MARGIN_S
    with client.transport.stream(attempt, query=query, silence_s=silence_s) as lines:
        for line in lines:
            event = json.loads(line)
            value, kind = event["object"], event["type"]
            if kind == "ERROR":
                raise to_error(Refusal(int(value.get("code", 500)), value), attempt)
            position.version = value["metadata"]["resourceVersion"]
            if kind != "BOOKMARK":
                yield Event(Change.GONE if kind == "DELETED" else Change.CHANGED, (value,))
