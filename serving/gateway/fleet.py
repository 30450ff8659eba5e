"""The replicas a gateway can reach, and how many requests it holds on each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from random import Random

from serving.core.types import ModelId, ReplicaEndpoint, ReplicaId, ReplicaSnapshot
from serving.errors import Overloaded
from serving.routing.pipeline import pick_replica


class Fleet:
    """Running engine replicas by model, fed by `update`, read through `lease`.

    All methods run on one event loop; nothing here waits while it changes state.
    """

    def __init__(self, models: Collection[ModelId], *, rng: Random) -> None:
        self._endpoints: dict[ModelId, tuple[ReplicaEndpoint, ...]] = dict.fromkeys(models, ())
        self._in_flight: Counter[ReplicaId] = Counter()
        self._changed = asyncio.Event()
        self._rng = rng

    def update(self, model: ModelId, endpoints: Sequence[ReplicaEndpoint]) -> None:
        """Replace what is known of one model's running replicas."""
        self._endpoints[model] = tuple(endpoints)
        self._changed.set()
        self._changed = asyncio.Event()

    def endpoints(self, model: ModelId) -> tuple[ReplicaEndpoint, ...]:
        """The running replicas of a model."""
        return self._endpoints[model]

    @contextmanager
    def lease(self, replica: ReplicaEndpoint) -> Iterator[None]:
        """Count one request on a replica while the context is open."""
        self._in_flight[replica.id] += 1
        try:
            yield
        finally:
            self._in_flight[replica.id] -= 1
            if not self._in_flight[replica.id]:
                del self._in_flight[replica.id]

    async def choose(
        self, model: ModelId, *, exclude: Collection[ReplicaId], wait_s: float
    ) -> ReplicaEndpoint:
        """A replica for the next request, waiting for one to appear if none is left.

        Raises:
            Overloaded: `model_not_ready` after `wait_s` seconds without an eligible replica.
        """
        try:
            async with asyncio.timeout(wait_s):
                while (picked := self._pick(model, exclude)) is None:
                    await self._changed.wait()
        except TimeoutError as error:
            raise Overloaded(
                f"The model `{model}` has no replica ready for this request",
                code="model_not_ready",
                param="model",
                retryable=True,
                retry_after_s=max(1.0, wait_s),
            ) from error
        return picked.endpoint

    def _pick(self, model: ModelId, exclude: Collection[ReplicaId]) -> ReplicaSnapshot | None:
        snapshots = [
            ReplicaSnapshot(endpoint, self._in_flight[endpoint.id])
            for endpoint in self._endpoints[model]
        ]
        return pick_replica(snapshots, exclude=exclude, rng=self._rng)
