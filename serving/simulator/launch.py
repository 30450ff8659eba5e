"""Starting a simulated engine in an engine replica as the model's settings say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from prometheus_client import REGISTRY, CollectorRegistry

from serving.core.start_record import StartPhase, StartRecord
from serving.core.types import EngineDescription, EngineLoad, ModelId
from serving.errors import ConfigError
from serving.planner.chunk import choose_chunk
from serving.planner.engine_device import GPU
from serving.planner.kv_cache import KvLayout, LayerGroup, Lengths
from serving.protocol.state_frames import CacheLayout
from serving.rendering.tokenizer import PieceTokenizer, Tokenizer
from serving.routing.block_hashing import BlockHasher
from serving.routing.block_namer import BlockNamer, CacheChange, GroupedNames
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings
from serving.simulator.api import SimulatorApi
from serving.simulator.engine import EngineLoop, EngineParts
from serving.simulator.generation import AnswerSource
from serving.simulator.kv_cache import KvCacheConfig
from serving.simulator.metrics import EngineMetrics
from serving.simulator.metrics_collector import MetricsCollector
from serving.simulator.scheduler import Scheduler, SchedulerConfig
from serving.simulator.served_model import ServedModel
from serving.simulator.service import Service
from serving.simulator.timing import StepTimer

VLLM_VERSION = "0.32.0"
"""The release that is simulated."""

_MAX_MODEL_LEN = 8192
_BLOCK_SIZE = 16
"""vLLM's defaults on GPUs, which is what a simulated engine stands for whatever it runs on; the
length of the longest sequence would come from the model."""


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """A running simulated engine with its HTTP application."""

    app: SimulatorApi
    description: EngineDescription
    loop: EngineLoop

    @property
    def layout(self) -> CacheLayout:
        """How its KV cache is made."""
        window_blocks = self.loop.parts.scheduler.kv_cache.num_window_blocks or None
        return CacheLayout(
            block_size=self.description.block_size,
            total_blocks=self.description.kv_blocks_total,
            window_blocks=(window_blocks,),
        )

    def load(self) -> EngineLoad:
        """Scheduler figures of the latest engine step."""
        return self.loop.load()

    def cache_change(self) -> CacheChange:
        """What has changed in the prefix cache since the last call."""
        return self.loop.cache_change()

    def cached_blocks(self) -> GroupedNames:
        """What the prefix cache holds."""
        namer = self.loop.parts.namer
        return namer.held() if namer else {}

    async def check_health(self) -> None:
        """Return if the engine is alive and, if it has requests, makes steps.

        Raises:
            EngineError: it was shut down, has failed or hangs; the replica must be replaced.
        """
        await self.loop.check_health()

    def shutdown(self) -> None:
        """Stop at once; running generations are lost."""
        self.loop.shutdown()


async def launch_simulator(
    model_id: ModelId,
    model: ModelSettings,
    resolve_weights: Callable[[], Path] | None,
    secret: bytes,
    start: StartRecord,
) -> SimulatedEngine:
    """Start an engine in this process, after as long as the settings say that takes.

    Args:
        secret: of the names it gives its blocks.
        resolve_weights: gives the folder whose tokenizer and chat template are used, if any.
        start: is told the phases.

    Raises:
        ConfigError: the settings ask for no simulator, or for one that vLLM would not start.
    """
    if model.simulator is None:
        raise ConfigError("the model is not simulated", code="setting_invalid", param="simulator")
    with start.phase(StartPhase.WEIGHTS):
        folder = resolve_weights() if resolve_weights else None
    with start.phase(StartPhase.LOAD):
        engine = build_engine(
            model_id, model, folder, registry=REGISTRY, clock=time.monotonic, secret=secret
        )
        await asyncio.sleep(model.simulator.start_s)
    engine.loop.start()
    return engine


def build_engine(
    model_id: ModelId,
    model: ModelSettings,
    folder: Path | None,
    *,
    registry: CollectorRegistry,
    clock: Callable[[], float],
    secret: bytes | None = None,
) -> SimulatedEngine:
    """An engine at rest.

    Args:
        folder: whose tokenizer and chat template are used, if any.
        registry: where its metrics are found.
        clock: monotonic seconds, in step with the running event loop's.
        secret: of the names of its blocks; `None` names none.

    Raises:
        ConfigError: as `launch_simulator`.
    """
    simulator = model.simulator or SimulatorSettings()
    config = scheduler_config(model, simulator, record_events=secret is not None)
    tokenizer = _tokenizer(folder)
    scheduler = Scheduler(config)
    metrics = EngineMetrics(max_model_len=config.max_model_len)
    cache_config = _cache_config(config.kv_cache)
    registry.register(
        MetricsCollector(metrics, scheduler, model_name=model_id, cache_config=cache_config)
    )
    loop = EngineLoop(
        EngineParts(
            scheduler=scheduler,
            timer=StepTimer(simulator.timing, Random(simulator.seed)),  # noqa: S311 (no secret)
            answers=AnswerSource(
                tokenizer.vocabulary, mean_tokens=simulator.answer_tokens, seed=simulator.seed
            ),
            metrics=metrics,
            max_model_len=config.max_model_len,
            vocab_size=tokenizer.vocab_size,
            overhead_s=simulator.timing.overhead_s,
            hang_timeout_s=model.engine.hang_timeout_s,
            clock=clock,
            sleep=asyncio.sleep,
            namer=None if secret is None else _namer(config.kv_cache, secret),
        )
    )
    served = ServedModel(
        name=model_id,
        adapters={name: str(path) for name, path in model.adapters.items()},
        max_model_len=config.max_model_len,
        created=int(time.time()),
        version=VLLM_VERSION,
        has_tool_parser=model.engine.tool_call_parser is not None,
    )
    app = SimulatorApi(Service(served, tokenizer, loop), registry=registry)
    return SimulatedEngine(app, _describe(config), loop)


def _namer(cache: KvCacheConfig, secret: bytes) -> BlockNamer:
    hasher = BlockHasher(secret, block_size=cache.block_size)
    return BlockNamer(hasher, max_expected=2 * cache.num_blocks)


def scheduler_config(
    model: ModelSettings, simulator: SimulatorSettings, *, record_events: bool = False
) -> SchedulerConfig:
    """The engine's limits.

    Raises:
        ConfigError: a sequence of `max_model_len` tokens would not fit the KV cache.

    >>> simulator = SimulatorSettings(kv_blocks=513)
    >>> scheduler_config(ModelSettings(simulator=simulator), simulator).max_model_len
    8192
    """
    engine = model.engine
    config = SchedulerConfig(
        KvCacheConfig(
            num_blocks=simulator.kv_blocks,
            block_size=engine.block_size or _BLOCK_SIZE,
            sliding_window=simulator.sliding_window,
            record_events=record_events,
        ),
        max_model_len=engine.max_model_len or _MAX_MODEL_LEN,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens or _chunk_tokens(model, simulator),
    )
    _check_room(config)
    return config


def _chunk_tokens(model: ModelSettings, simulator: SimulatorSettings) -> int:
    """What the planner would choose for a real engine with this window."""
    engine = model.engine
    layers = LayerGroup(1, engine.block_size or _BLOCK_SIZE, simulator.sliding_window)
    choice = choose_chunk(
        KvLayout((layers,), bytes_per_block=1),
        max_model_len=engine.max_model_len or _MAX_MODEL_LEN,
        max_num_seqs=engine.max_num_seqs,
        device=GPU,
    )
    return choice.tokens or GPU.default_chunk_tokens


def _check_room(config: SchedulerConfig) -> None:
    """Source: `_check_enough_kv_cache_memory` in vllm/v1/core/kv_cache_utils.py, vLLM 0.32."""
    cache = config.kv_cache
    lengths = Lengths(config.max_model_len, in_flight=config.max_num_batched_tokens)
    layers = LayerGroup(1, cache.block_size, cache.sliding_window)
    num_needed = layers.blocks_per_sequence(lengths)
    if num_needed > cache.num_blocks - 1:
        raise ConfigError(
            f"one sequence of {config.max_model_len} tokens needs {num_needed + 1} KV blocks, "
            f"and there are {cache.num_blocks}",
            code="kv_cache_too_small",
            param="simulator.kv_blocks",
            hint="raise simulator.kv_blocks or lower engine.max_model_len",
        )


def _tokenizer(folder: Path | None) -> Tokenizer:
    if folder is None:
        return PieceTokenizer()
    # Loads a template engine and the Rust tokenizer, which most simulations do without.
    from serving.rendering.model_tokenizer import ModelTokenizer

    return ModelTokenizer(folder)


def _cache_config(cache: KvCacheConfig) -> dict[str, str]:
    """Those labels of `vllm:cache_config_info` that a simulation can tell."""
    return {
        "block_size": str(cache.block_size),
        "enable_prefix_caching": "True",
        "num_gpu_blocks": str(cache.num_blocks),
        "sliding_window": str(cache.sliding_window),
    }


def _describe(config: SchedulerConfig) -> EngineDescription:
    return EngineDescription(
        max_model_len=config.max_model_len,
        sliding_window=config.kv_cache.sliding_window,
        block_size=config.kv_cache.block_size,
        kv_blocks_total=config.kv_cache.num_blocks,
        tasks=("generate",),
        max_num_batched_tokens=config.max_num_batched_tokens,
    )
