"""Telling gateways this replica's state, over the listener that also takes their requests.

A gateway asks once and gets frames for as long as it stays: a snapshot, then every change within
`_PERIOD_S`, and a sign of life when nothing changes. A gateway that reads too slowly misses frames
and gets a new snapshot instead; it never holds up the others or the engine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from serving.protocol.state_frames import (
    CacheLayout,
    LoadReport,
    StateFrame,
    encode_frame,
    pack_names,
)
from serving.routing.block_namer import CacheChange, GroupedNames

if TYPE_CHECKING:
    from starlette.types import Receive, Send

_PERIOD_S = 0.05
_HEARTBEAT_S = 0.5
_MAX_BEHIND = 64
"""Frames a slow gateway may lag behind: some seconds."""


class _Subscriber:
    """One gateway: the frames it has yet to get, or `None` where it needs a snapshot."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.needs_snapshot = True
        self.wake = asyncio.Event()


class StateStream:
    """Composes frames and hands them to every gateway that listens.

    Args:
        layout: of the replica's KV cache.
        report: the replica's load now.
        changes: what has changed in the prefix cache since the last call.
        cached: everything in it.
        rng: source of the order in which gateways are told.

    `run` must run for anything to be told.
    """

    def __init__(
        self,
        layout: CacheLayout,
        *,
        report: Callable[[], LoadReport],
        changes: Callable[[], CacheChange],
        cached: Callable[[], GroupedNames],
        rng: Random,
    ) -> None:
        self._layout = layout
        self._report = report
        self._changes = changes
        self._cached = cached
        self._rng = rng
        self._subscribers: set[_Subscriber] = set()
        self._seq = 0
        self._last_report: LoadReport | None = None
        self._last_told_at = 0.0

    @property
    def num_gateways(self) -> int:
        """How many listen."""
        return len(self._subscribers)

    async def run(self) -> None:
        """Tell changes until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.tell(loop.time())
            await asyncio.sleep(_PERIOD_S)

    def tell(self, now: float) -> None:
        """Compose a frame if there is anything to tell."""
        change = self._changes()
        report = self._report()
        is_due = now - self._last_told_at >= _HEARTBEAT_S
        if not self._subscribers or not (change or is_due or report != self._last_report):
            return
        self._seq += 1
        self._last_report, self._last_told_at = report, now
        if change.is_cleared:
            frame = self._snapshot(report)
        else:
            stored, removed = _packed(change.stored), _packed(change.removed)
            frame = StateFrame(self._seq, None, report, stored, removed)
        self._hand_out(encode_frame(frame), report)

    async def serve(self, receive: Receive, send: Send) -> None:
        """Answer one gateway until it leaves."""
        subscriber = _Subscriber()
        self._subscribers.add(subscriber)
        gone = asyncio.create_task(_until_gone(receive))
        try:
            head = [(b"content-type", b"application/x-galerne-state")]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            while not gone.done():
                while subscriber.frames:
                    body = subscriber.frames.popleft()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                subscriber.wake.clear()
                woken = asyncio.create_task(subscriber.wake.wait())
                await asyncio.wait({woken, gone}, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
        finally:
            gone.cancel()
            self._subscribers.discard(subscriber)

    def _hand_out(self, frame: bytes, report: LoadReport) -> None:
        snapshot: bytes | None = None
        # Who is told first has the room that there is; nobody is to be first every time.
        for subscriber in self._rng.sample(tuple(self._subscribers), len(self._subscribers)):
            if len(subscriber.frames) >= _MAX_BEHIND:
                subscriber.frames.clear()
                subscriber.needs_snapshot = True
            if subscriber.needs_snapshot:
                snapshot = snapshot or encode_frame(self._snapshot(report))
                subscriber.frames.append(snapshot)
                subscriber.needs_snapshot = False
            else:
                subscriber.frames.append(frame)
            subscriber.wake.set()

    def _snapshot(self, report: LoadReport) -> StateFrame:
        return StateFrame(self._seq, self._layout, report, _packed(self._cached()))


def _packed(grouped: GroupedNames) -> dict[int, bytes]:
    return {group: pack_names(names) for group, names in grouped.items() if names}


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
