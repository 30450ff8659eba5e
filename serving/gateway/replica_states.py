"""Following the state that engine replicas push, one stream per replica, and keeping the latest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from serving.routing.routed_prefixes import PART_TOKENS, ROUTED_GROUP

_TICK_S = 1.0
SUSPECT_S = 3 * _TICK_S
"""A replica that says nothing for six heartbeats is asked anew, because its stream may have broken
without a word; meanwhile others are preferred."""
LOST_S = 15 * _TICK_S
"""A replica that has not answered those questions either is taken for lost: its process stands
still, or its node cannot be reached. Serve finds out by its health checks, and replaces it."""
_MAX_PAUSE_S = 2.0

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A replica's latest report and when it came, in seconds of the gateway's clock."""

    report: LoadReport
    layout: CacheLayout
    heard_at: float


@dataclass(slots=True)
class _Followed:
    """One replica, and how well it is heard.

    `silent_ticks` counts looks in a row between which it has said nothing. They are counted, not
    timed: a gateway that was itself stopped for a minute then finds nobody silent.
    `untold_since` is when its reports ceased, if they have.
    """

    endpoint: ReplicaEndpoint
    untold_since: float | None
    task: asyncio.Task[None] | None = None
    state: ReplicaState | None = None
    silent_ticks: int = 0
    last_seq: int = -1


class ReplicaStates:
    """The states of one model's replicas, and the index of what they have cached.

    Args:
        connections: to the replicas.
        token: the cluster's internal token.
        max_entries: bound of the index.
        follows_routing: index what is routed to replicas instead of what they have cached.
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
        follows_routing: bool = False,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        self._connections = connections
        self._headers = [(INTERNAL_TOKEN, token.encode())]
        self._max_entries = max_entries
        self.follows_routing = follows_routing
        self._now = now
        self._rng = rng
        self._followed: dict[ReplicaId, _Followed] = {}
        self._indexed: tuple[int, tuple[int | None, ...]] = (0, ())
        self.index: PrefixIndex | None = None
        """`None` until a replica has told its layout."""
        self.on_report: Callable[[ReplicaId], None] = _ignore
        self.num_gaps = 0
        """Frames that were missing; each costs a snapshot."""

    def state(self, replica: ReplicaId) -> ReplicaState | None:
        """What the replica last said of itself."""
        followed = self._followed.get(replica)
        return followed.state if followed else None

    def silent_s(self, replica: ReplicaId) -> float:
        """For how long the replica has neither said nor answered anything, in seconds."""
        followed = self._followed.get(replica)
        return followed.silent_ticks * _TICK_S if followed else 0.0

    @property
    def num_followed(self) -> int:
        """Replicas that run."""
        return len(self._followed)

    @property
    def block_size(self) -> int | None:
        """Tokens in a KV block, `None` until a replica has told what it has cached."""
        return self._indexed[0] or None

    def hit_tokens(self, names: Sequence[int]) -> dict[ReplicaId, int]:
        """The leading tokens of a prompt that each replica has cached; those without any are left
        out.

        Args:
            names: of the prompt's blocks.
        """
        if self.index is None:
            return {}
        hits = self.index.hits(names)
        return {replica: num_blocks * self._indexed[0] for replica, num_blocks in hits.items()}

    def problems(self) -> list[str]:
        """What an operator must know, as long as it lasts."""
        now = self._now()
        return [
            f"replica {replica} has not told its state for {now - followed.untold_since:.0f} s"
            for replica, followed in self._followed.items()
            if followed.untold_since is not None and now - followed.untold_since > SUSPECT_S
        ]

    def follow(self, endpoints: Iterable[ReplicaEndpoint]) -> None:
        """These replicas run; others are forgotten."""
        wanted = {endpoint.id: endpoint for endpoint in endpoints}
        for replica in self._followed.keys() - wanted.keys():
            gone = self._followed.pop(replica)
            if gone.task is not None:
                gone.task.cancel()
            if self.index is not None:
                self.index.forget(replica)
        for replica in wanted.keys() - self._followed.keys():
            new = self._followed[replica] = _Followed(wanted[replica], untold_since=self._now())
            new.task = asyncio.get_running_loop().create_task(self._follow(new))

    async def close(self) -> None:
        """Follow nobody."""
        tasks = [followed.task for followed in self._followed.values() if followed.task]
        self.follow(())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, followed: _Followed) -> None:
        pause_s = 0.0
        while True:
            begun = self._now()
            reason = "silence"
            try:
                await self._listen(followed)
            except (UpstreamError, FrameError, ServingError, ValueError) as error:
                reason = str(error)
            if followed.untold_since is None:
                logger.warning(
                    "replica %s tells its state no more: %s", followed.endpoint.id, reason
                )
                followed.untold_since = self._now()
            held = self._now() - begun >= SUSPECT_S
            pause_s = 0.05 if held else min(max(2 * pause_s, 0.05), _MAX_PAUSE_S)
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))

    async def _listen(self, followed: _Followed) -> None:
        """Take frames until the stream ends, breaks or falls silent.

        Raises:
            UpstreamError: the replica cannot be reached, or broke off.
            FrameError: it sends what is no frame, or left one out.
        """
        taking = asyncio.create_task(self._take_frames(followed))
        try:
            while True:
                await asyncio.wait({taking}, timeout=_TICK_S)
                if taking.done():
                    taking.result()
                    return
                followed.silent_ticks += 1
                silent_s = followed.silent_ticks * _TICK_S
                if silent_s == LOST_S:
                    self._give_up(followed)
                if silent_s % SUSPECT_S == 0:
                    return
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    def _give_up(self, followed: _Followed) -> None:
        """Let the replica's requests go to others, as far as they have no answer yet."""
        num_cut = self._connections.abandon(followed.endpoint.url)
        logger.warning(
            "replica %s has answered nothing for %.0f s; %d connections to it were cut",
            followed.endpoint.id, LOST_S, num_cut,
        )  # fmt: skip

    async def _take_frames(self, followed: _Followed) -> None:
        reader = FrameReader()
        followed.last_seq = -1

        def take(data: bytes) -> None:
            followed.silent_ticks = 0
            for frame in reader.feed(data):
                if not frame.is_snapshot and frame.seq != followed.last_seq + 1:
                    self.num_gaps += 1
                    raise FrameError(f"frame {frame.seq} after {followed.last_seq}")
                followed.last_seq = frame.seq
                self._apply(followed, frame)

        request = Request("GET", STATE_STREAM_PATH, self._headers)
        async with self._connections.request(followed.endpoint.url, request) as answer:
            followed.silent_ticks = 0
            if answer.head.status != 200:
                raise FrameError(f"status {answer.head.status}")
            await answer.stream(take)

    def _apply(self, followed: _Followed, frame: StateFrame) -> None:
        replica, known = followed.endpoint.id, followed.state
        layout = frame.layout or (known.layout if known else None)
        if layout is None:
            raise FrameError("no snapshot came first")
        followed.untold_since = None
        followed.state = ReplicaState(frame.report, layout, self._now())
        if (index := self._index_for(layout)) is not None:
            stored, removed = self._indexed_part(frame.stored), self._indexed_part(frame.removed)
            if frame.is_snapshot:
                index.replace(replica, stored)
            else:
                for group, names in removed.items():
                    index.remove(replica, names, group=group)
                for group, names in stored.items():
                    index.store(replica, names, group=group)
        self.on_report(replica)

    def _index_for(self, layout: CacheLayout) -> PrefixIndex | None:
        """The index, for replicas whose blocks are like those of the first.

        While settings change that alter them, the others are taken for replicas that tell nothing.
        """
        like: tuple[int, tuple[int | None, ...]] = (layout.block_size, layout.window_blocks)
        if self.follows_routing:
            like = (PART_TOKENS, (None,))
        if self.index is None and like[1]:
            groups = [CacheGroup(window) for window in like[1]]
            self.index = PrefixIndex(groups, max_entries=self._max_entries)
            self._indexed = like
        return self.index if like == self._indexed else None

    def _indexed_part(self, packed: Mapping[int, bytes]) -> dict[int, list[int]]:
        """Names by group of the index."""
        if self.follows_routing:
            routed = packed.get(ROUTED_GROUP)
            return {} if routed is None else {0: unpack_names(routed)}
        return {g: unpack_names(names) for g, names in packed.items() if g != ROUTED_GROUP}


def _ignore(_replica: ReplicaId) -> None:
    pass
