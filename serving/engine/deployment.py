"""The Ray Serve deployment that runs one engine and its listener."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import ray
from prometheus_client import REGISTRY

from serving.core.start_record import StartPhase, StartRecord
from serving.core.types import EngineDescription, EngineLoad, ModelId
from serving.engine.guard import EngineGuard
from serving.engine.lifetime import LifetimeCollector
from serving.engine.listener import HttpListener
from serving.engine.metrics import EngineMetrics
from serving.engine.oom import be_first_victim
from serving.engine.state_stream import StateStream
from serving.protocol.metrics_page import MetricsPage
from serving.protocol.state_frames import CacheLayout, LoadReport
from serving.routing.block_namer import CacheChange, GroupedNames
from serving.routing.routed_prefixes import PART_TOKENS, RoutedPrefixes
from serving.scaling.replica_figures import figures_of
from serving.settings.model import ModelSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger("ray.serve")


class Engine(Protocol):
    """What runs in a replica: vLLM, or a simulator of it."""

    @property
    def app(self) -> ASGIApp:
        """vLLM's HTTP interface."""

    @property
    def description(self) -> EngineDescription:
        """What the engine is, fixed from its start."""

    @property
    def layout(self) -> CacheLayout:
        """How its KV cache is made, and whether it tells what is cached."""

    def load(self) -> EngineLoad:
        """Scheduler figures of the latest engine step, and all work so far."""

    def cache_change(self) -> CacheChange:
        """What has changed in the prefix cache since the last call."""

    def cached_blocks(self) -> GroupedNames:
        """What the prefix cache holds."""

    async def check_health(self) -> None:
        """Return if the engine works.

        Raises:
            EngineError: it has died or hangs; the replica must be replaced.
        """

    def shutdown(self) -> None:
        """Stop at once; running generations are lost."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What one engine replica is built from.

    The callables run in the replica's process, on its node: `launch` starts the engine, whose names
    of blocks the given secret makes, and tells the phases of its start; `read_token` and
    `read_metrics_token` give the cluster's secrets. `ordered_at` asks when Serve ordered the
    replica, in Unix time, `None` if nobody says: it may take seconds, so it gets a thread. Neither
    a path of another machine nor a secret travels in the deployment's arguments. `version` names
    all of it.
    """

    model_id: ModelId
    model: ModelSettings
    launch: Callable[[bytes, StartRecord], Awaitable[Engine]]
    ordered_at: Callable[[], float | None]
    read_token: Callable[[], str]
    read_metrics_token: Callable[[], str]
    version: str


class ModelRoot:
    """Stands for a model's application in Serve's books; nothing ever calls it."""

    def __init__(self, engine: object) -> None: ...


class EngineReplica:
    """One engine behind a guarded listener of its own.

    Requests never pass through Ray: gateways connect to the address in `record_replica_metadata`.
    Serve starts, watches and stops the process.
    """

    async def __init__(self, spec: EngineSpec) -> None:  # type: ignore[misc]  # Serve awaits it
        self._spec = spec
        self._start = StartRecord(clock=time.monotonic, wall_clock=time.time)
        asking = asyncio.get_running_loop().run_in_executor(None, spec.ordered_at)
        be_first_victim()
        token = spec.read_token()
        self._engine = await spec.launch(token.encode(), self._start)
        if (ordered_at := await asking) is not None:
            self._start.ordered(ordered_at)
        with self._start.phase(StartPhase.WARM_UP):
            self._open(token)

    def _open(self, token: str) -> None:
        """Begin to take requests, and to tell of them."""
        spec, layout = self._spec, self._engine.layout
        self._routed = RoutedPrefixes(layout.total_blocks * layout.block_size // PART_TOKENS)
        self._stream = StateStream(
            layout,
            report=self._report,
            changes=self._changes,
            cached=self._cached,
            rng=Random(),  # noqa: S311 (no secret)
        )
        self._guard = EngineGuard(
            self._engine.app,
            token=token,
            max_in_flight=spec.model.request_limit,
            version=spec.version,
            state=self._state,
            stream=self._stream.serve,
        )
        self._guard.on_routed = self._routed.record
        self._metrics = EngineMetrics(REGISTRY, model=spec.model_id, guard=self._guard)
        lifetime = LifetimeCollector(self._start, model=spec.model_id, num_gpus=spec.model.num_gpus)
        REGISTRY.register(lifetime)
        page = MetricsPage(REGISTRY, token=spec.read_metrics_token())
        host = ray.util.get_node_ip_address()
        self._listener = HttpListener(self._guard, host=host)
        self._metrics_listener = HttpListener(page, host=host)
        self._listener.start()
        self._metrics_listener.start()
        self._telling = asyncio.create_task(self._stream.run())

    def record_replica_metadata(self) -> dict[str, Any]:
        """Where gateways find this replica; read once by Serve when the replica is ready."""
        return {
            "url": self._listener.url,
            "metrics_url": self._metrics_listener.url,
            "pid": os.getpid(),
            "version": self._spec.version,
        }

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """This replica's figures for the autoscaler.

        Serve asks twice a second where a deployment scales by itself; not `async`, it would ask in
        a thread, from which an engine cannot be asked.
        """
        figures = figures_of(
            self._engine.load(),
            self._engine.description,
            in_flight=self._guard.in_flight,
            is_draining=self._guard.is_draining,
        )
        return asdict(figures)

    async def check_health(self) -> None:
        """Raise when the engine process or the listener is gone, so that Serve replaces both."""
        await self._engine.check_health()
        if not self._listener.is_serving:
            raise RuntimeError("the engine listener has stopped")

    def _report(self) -> LoadReport:
        load = self._engine.load()
        self._metrics.show_load(load)
        return LoadReport(
            running=load.running,
            waiting=load.waiting,
            waiting_tokens=load.waiting_tokens,
            prefill_tokens_per_s=load.prefill_tokens_per_s,
            kv_blocks_used=load.kv_blocks_used,
            in_flight=self._guard.in_flight,
            draining=self._guard.is_draining,
            adapters=tuple(self._spec.model.adapters),
            num_gateways=self._stream.num_gateways,
        )

    def _changes(self) -> CacheChange:
        """Of the engine's cache, and of what was routed here."""
        engine, routed = self._engine.cache_change(), self._routed.change()
        return CacheChange(
            engine.stored | routed.stored, engine.removed | routed.removed, engine.is_cleared
        )

    def _cached(self) -> GroupedNames:
        return self._engine.cached_blocks() | self._routed.held()

    def _state(self) -> dict[str, Any]:
        return {
            "model": self._spec.model_id,
            "engine": asdict(self._engine.description),
            "load": asdict(self._engine.load()),
        }

    async def __del__(self) -> None:
        """Finish the running streams, up to the drain limit, then stop the engine.

        Serve awaits this before it ends the process; a replica that failed to start has no parts.
        """
        if not hasattr(self, "_listener"):
            return
        if not await self._guard.drain(self._spec.model.drain_timeout_s):
            logger.warning("drain limit reached with %d requests left", self._guard.in_flight)
        self._telling.cancel()
        await self._listener.stop()
        await self._metrics_listener.stop()
        self._engine.shutdown()
