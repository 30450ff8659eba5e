"""The events of a watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from kube_api.history import Change
from kube_api.request_parts import Target, selection
from kube_api.selectors import Matches
from kube_api.status_bodies import ApiError
from kube_api.store import Store

_LONGEST_S = 1800.0


class Wakeups:
    """Tells watches that the history has grown, or that the server ends."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.ended = asyncio.Event()

    def wake(self) -> None:
        """Watches look at the history again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def end(self) -> None:
        """Watches, and requests that hang, are let go."""
        self.ended.set()
        self.wake()


async def watch_lines(
    store: Store, request: web.Request, target: Target, wakeups: Wakeups
) -> AsyncIterator[bytes]:
    """The lines of a watch's answer."""
    loop, matches = asyncio.get_running_loop(), selection(request)
    ends_at = loop.time() + float(request.query.get("timeoutSeconds") or _LONGEST_S)
    since = int(request.query.get("resourceVersion") or 0)
    if not since:
        since, found = store.list(target.resource, target.namespace, matches)
        for each in found:
            yield _line("ADDED", each)
    while loop.time() < ends_at and not wakeups.ended.is_set():
        # In this order, so that nothing falls between: the bell, the version, the history.
        changed, version = wakeups.changed, store.version
        try:
            changes = store.changes(target.resource, since)
        except ApiError as error:
            yield _line("ERROR", error.body)
            return
        for change in changes:
            if event := _event(change, target, matches):
                yield event
        since = max([version, *(change.version for change in changes)])
        try:
            await asyncio.wait_for(changed.wait(), ends_at - loop.time())
        except TimeoutError:
            break
    if request.query.get("allowWatchBookmarks") in ("true", "True"):
        # The real server sends them about once a minute, and one at the end.
        yield _line("BOOKMARK", _bookmark(target, since))


def _bookmark(target: Target, version: int) -> dict[str, Any]:
    resource = target.resource
    metadata = {"resourceVersion": str(version)}
    return {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}


def _event(change: Change, target: Target, matches: Matches) -> bytes | None:
    """What a watch with a selector sees: an object that no longer matches is one that goes."""
    value = change.after or change.before
    assert value is not None
    if target.namespace not in ("", value["metadata"].get("namespace", "")):
        return None
    was = change.before is not None and matches(change.before)
    is_one = change.after is not None and matches(change.after)
    if is_one:
        return _line("MODIFIED" if was else "ADDED", value)
    return _line("DELETED", value) if was else None


def _line(kind: str, value: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": value}).encode() + b"\n"
