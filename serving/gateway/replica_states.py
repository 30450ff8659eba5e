"""Following the state that engine replicas push, one stream per replica, and keeping the latest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from serving.core.types import ReplicaEndpoint, ReplicaId
from serving.core.wire import INTERNAL_TOKEN, STATE_STREAM_PATH
from serving.errors import ServingError
from serving.gateway.connections import Connections, Request
from serving.gateway.upstream import UpstreamError
from serving.protocol.state_frames import (
    CacheLayout,
    FrameError,
    FrameReader,
    LoadReport,
    StateFrame,
    unpack_names,
)
from serving.routing.prefix_index import CacheGroup, PrefixIndex

_SILENCE_S = 3.0
"""A stream that says nothing for six heartbeats is opened anew: its other end may be gone without
having said so."""
_MAX_PAUSE_S = 2.0

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A replica's latest report and when it came, in seconds of the gateway's clock."""

    report: LoadReport
    layout: CacheLayout
    heard_at: float


@dataclass(slots=True)
class _Stream:
    """How far one stream has come."""

    heard_at: float
    last_seq: int = -1


class ReplicaStates:
    """The states of one model's replicas, and the index of what they have cached.

    Args:
        connections: to the replicas.
        token: the cluster's internal token.
        max_entries: bound of the index.
        now: monotonic clock, in seconds.
        rng: spreads reconnections.

    `on_report` is called after each frame.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        token: str,
        max_entries: int,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        self._connections = connections
        self._headers = [(INTERNAL_TOKEN, token.encode())]
        self._max_entries = max_entries
        self._now = now
        self._rng = rng
        self._tasks: dict[ReplicaId, asyncio.Task[None]] = {}
        self._states: dict[ReplicaId, ReplicaState] = {}
        self._silent_since: dict[ReplicaId, float] = {}
        self.index: PrefixIndex | None = None
        """`None` until a replica has told its layout."""
        self.on_report: Callable[[ReplicaId], None] = _ignore
        self.num_gaps = 0
        """Frames that were missing; each costs a snapshot."""

    def state(self, replica: ReplicaId) -> ReplicaState | None:
        """What the replica last said of itself."""
        return self._states.get(replica)

    def problems(self) -> list[str]:
        """What an operator must know, as long as it lasts."""
        now = self._now()
        return [
            f"replica {replica} has not told its state for {now - since:.0f} s"
            for replica, since in self._silent_since.items()
            if now - since > _SILENCE_S
        ]

    def follow(self, endpoints: Iterable[ReplicaEndpoint]) -> None:
        """These replicas run; others are forgotten."""
        wanted = {endpoint.id: endpoint for endpoint in endpoints}
        for replica in self._tasks.keys() - wanted.keys():
            self._tasks.pop(replica).cancel()
            self._states.pop(replica, None)
            self._silent_since.pop(replica, None)
            if self.index is not None:
                self.index.forget(replica)
        for replica in wanted.keys() - self._tasks.keys():
            task = asyncio.get_running_loop().create_task(self._follow(wanted[replica]))
            self._tasks[replica] = task
            self._silent_since[replica] = self._now()

    async def close(self) -> None:
        """Follow nobody."""
        tasks = tuple(self._tasks.values())
        self.follow(())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, endpoint: ReplicaEndpoint) -> None:
        pause_s = 0.0
        while True:
            begun = self._now()
            reason = "silence"
            try:
                await self._listen(endpoint)
            except (UpstreamError, FrameError, ServingError, ValueError) as error:
                reason = str(error)
            if endpoint.id not in self._silent_since:
                logger.warning("replica %s tells its state no more: %s", endpoint.id, reason)
                self._silent_since[endpoint.id] = self._now()
            held = self._now() - begun > _SILENCE_S
            pause_s = 0.05 if held else min(max(2 * pause_s, 0.05), _MAX_PAUSE_S)
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))

    async def _listen(self, endpoint: ReplicaEndpoint) -> None:
        """Take frames until the stream ends, breaks or falls silent.

        Raises:
            UpstreamError: the replica cannot be reached, or broke off.
            FrameError: it sends what is no frame, or left one out.
        """
        stream = _Stream(self._now())
        taking = asyncio.create_task(self._take_frames(endpoint, stream))
        try:
            while not taking.done() and self._now() - stream.heard_at < _SILENCE_S:
                await asyncio.wait({taking}, timeout=_SILENCE_S / 3)
            if taking.done():
                taking.result()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _take_frames(self, endpoint: ReplicaEndpoint, stream: _Stream) -> None:
        reader = FrameReader()

        def take(data: bytes) -> None:
            stream.heard_at = self._now()
            for frame in reader.feed(data):
                if not frame.is_snapshot and frame.seq != stream.last_seq + 1:
                    self.num_gaps += 1
                    raise FrameError(f"frame {frame.seq} after {stream.last_seq}")
                stream.last_seq = frame.seq
                self._apply(endpoint.id, frame)

        request = Request("GET", STATE_STREAM_PATH, self._headers)
        async with self._connections.request(endpoint.url, request) as answer:
            if answer.head.status != 200:
                raise FrameError(f"status {answer.head.status}")
            await answer.stream(take)

    def _apply(self, replica: ReplicaId, frame: StateFrame) -> None:
        known = self._states.get(replica)
        layout = frame.layout or (known.layout if known else None)
        if layout is None:
            raise FrameError("no snapshot came first")
        self._silent_since.pop(replica, None)
        self._states[replica] = ReplicaState(frame.report, layout, self._now())
        if layout.window_blocks:
            if self.index is None:
                groups = [CacheGroup(window) for window in layout.window_blocks]
                self.index = PrefixIndex(groups, max_entries=self._max_entries)
            stored = {group: unpack_names(names) for group, names in frame.stored.items()}
            if frame.is_snapshot:
                self.index.replace(replica, stored)
            else:
                for group, names in frame.removed.items():
                    self.index.remove(replica, unpack_names(names), group=group)
                for group, kept in stored.items():
                    self.index.store(replica, kept, group=group)
        self.on_report(replica)


def _ignore(_replica: ReplicaId) -> None:
    pass
