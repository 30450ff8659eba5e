"""Everything Galerne knows of vLLM's Python interface, in one file.

A new vLLM version is taken by reading this file against it, changing what moved, running the
end-to-end tests and raising `SUPPORTED_VERSION`.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from serving.core.prefill_rate import PrefillRate
from serving.core.progress import ProgressWatch
from serving.core.types import EngineDescription, EngineLoad
from serving.errors import ConfigError, EngineError
from serving.protocol.state_frames import CacheLayout
from serving.routing.block_namer import NO_CHANGE, CacheChange, GroupedNames

if TYPE_CHECKING:
    from starlette.types import ASGIApp
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

SUPPORTED_VERSION = "0.32"
"""Series of vLLM releases whose interface this file was written against."""


_PROBE_TIMEOUT_S = 5.0
"""For a process that has nothing else to do; Serve asks three times before it believes, and waits
10 s for each answer."""


def check_version(version: str) -> None:
    """Refuse a vLLM this file does not know.

    Raises:
        ConfigError: the series differs from `SUPPORTED_VERSION`.

    >>> check_version("0.32.0+cpu")
    >>> check_version("0.33.1")
    Traceback (most recent call last):
    serving.errors.ConfigError: vLLM 0.33.1 is installed; this release of Galerne needs 0.32.x
    """
    if version.split("+")[0].split(".")[:2] != SUPPORTED_VERSION.split("."):
        raise ConfigError(
            f"vLLM {version} is installed; this release of Galerne needs {SUPPORTED_VERSION}.x",
            code="vllm_version",
            hint="install the pinned extra: galerne[cpu] or galerne[gpu]",
        )


def import_vllm() -> None:
    """Import vLLM or say how to install it.

    Raises:
        ConfigError: vLLM is missing, broken, or of another version.
    """
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(
            f"vLLM cannot be imported: {error}",
            code="vllm_missing",
            hint="install exactly one of galerne[cpu] and galerne[gpu]",
        ) from error
    check_version(vllm.__version__)


@dataclass(frozen=True, slots=True)
class VllmEngine:
    """A running vLLM engine with its HTTP application."""

    app: ASGIApp
    description: EngineDescription
    _llm: AsyncLLM
    _loads: _LoadRecorder
    _watch: ProgressWatch

    @property
    def layout(self) -> CacheLayout:
        """How its KV cache is made; what it holds is not told."""
        return CacheLayout(self.description.block_size, self.description.kv_blocks_total)

    def load(self) -> EngineLoad:
        """Scheduler figures of the latest engine step, and the prompts that wait now."""
        return replace(self._loads.latest, waiting_tokens=self._loads.queued_tokens())

    def cache_change(self) -> CacheChange:
        """Nothing."""
        return NO_CHANGE

    def cached_blocks(self) -> GroupedNames:
        """Nothing."""
        return {}

    async def check_health(self) -> None:
        """Return if the engine process is alive and does its work.

        A busy engine must make steps; an idle one must answer a question to its process.

        Raises:
            EngineError: it has died or hangs; the replica must be replaced.
        """
        if self._llm.errored:
            raise EngineError("the engine process has died", code="engine_dead", retryable=True)
        busy = self._llm.output_processor.has_unfinished_requests()
        if self._watch.is_hung(now=monotonic(), busy=busy) or not (busy or await self._answers()):
            raise EngineError("the engine process hangs", code="engine_hung", retryable=True)

    async def _answers(self) -> bool:
        """Whether the engine's process takes part, at the cost of one small message."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await self._llm.is_sleeping()
        except TimeoutError:
            return False
        return True

    def shutdown(self) -> None:
        """Stop the engine process; running generations are lost."""
        self._llm.shutdown(timeout=0)


async def start_engine(arguments: list[str], *, hang_timeout_s: float) -> VllmEngine:
    """Load the weights and build vLLM's HTTP application on the running event loop.

    Args:
        arguments: vLLM server options, from `serving.engine.arguments`.
        hang_timeout_s: the longest a single engine step may take.

    Raises:
        ConfigError: vLLM is unusable, or refuses the options.
    """
    import_vllm()
    args = parse_options(arguments)
    watch = ProgressWatch(hang_timeout_s)
    llm, loads = _start_llm(args, watch)
    await llm.reset_mm_cache()
    tasks = await llm.get_supported_tasks()
    app = await _build_app(llm, args, tasks)
    return VllmEngine(app, _describe(llm.vllm_config, tasks), llm, loads, watch)


def parse_options(arguments: list[str]) -> Namespace:
    """The options as vLLM's server reads them; vLLM must have been imported.

    Raises:
        ConfigError: vLLM refuses one.
    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM is not read by mypy
        """Says what is wrong instead of printing it and ending the process."""

        def error(self, message: str) -> NoReturn:
            raise ValueError(message)

    parser = make_arg_parser(Parser(exit_on_error=False))
    try:
        args: Namespace = parser.parse_args(arguments)
        validate_parsed_serve_args(args)
    except (SystemExit, Exception) as error:
        raise ConfigError(
            f"vLLM refuses the engine options: {error}",
            code="engine_options",
            hint="see `galerne config show` and vLLM's option reference",
        ) from error
    return args


def _start_llm(args: Namespace, watch: ProgressWatch) -> tuple[AsyncLLM, _LoadRecorder]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    config = AsyncEngineArgs.from_cli_args(args).create_engine_config(
        usage_context=UsageContext.OPENAI_API_SERVER
    )
    loads = _LoadRecorder(config, watch)
    llm = AsyncLLM.from_vllm_config(
        config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        stat_loggers=[loads],
        disable_log_stats=args.disable_log_stats,
    )
    loads.queued_tokens = llm.output_processor.get_num_queued_tokens
    return llm, loads


async def _build_app(llm: AsyncLLM, args: Namespace, tasks: tuple[Any, ...]) -> ASGIApp:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    app = build_app(args, tasks, llm.model_config)
    await init_app_state(llm, app.state, args, tasks)
    app.state.server = _NoServer()
    # Built on first use and kept; 2 s that must not stop a stream later.
    app.openapi()
    application: ASGIApp = app
    return application


@dataclass(slots=True)
class _NoServer:
    """Stands for the uvicorn server that vLLM's launcher would have made.

    vLLM's error handler asks it to exit when the engine has died. Here Serve replaces the replica
    then (`VllmEngine.check_health`), so nobody reads the wish; without the attribute the handler
    itself would fail. Source: `terminate_if_errored` in vllm/entrypoints/launchers/launcher.py,
    vLLM 0.32.
    """

    should_exit: bool = False


def _describe(config: VllmConfig, tasks: tuple[Any, ...]) -> EngineDescription:
    model, cache = config.model_config, config.cache_config
    return EngineDescription(
        max_model_len=model.max_model_len,
        sliding_window=model.get_sliding_window(),
        block_size=cache.block_size,
        kv_blocks_total=cache.num_gpu_blocks or 0,
        tasks=tuple(str(task) for task in tasks),
    )


class _LoadRecorder:
    """Keeps vLLM's latest scheduler statistics.

    vLLM calls the instance as a logger factory, then `record` once per engine step on the event
    loop. Source: `StatLoggerBase` in vllm/v1/metrics/loggers.py, vLLM 0.32.
    """

    def __init__(self, config: VllmConfig, watch: ProgressWatch) -> None:
        self._config = config
        self._watch = watch
        self.latest = EngineLoad(running=0, waiting=0, kv_blocks_used=0)
        self.queued_tokens: Callable[[], int] = int
        """Prompt tokens of the requests that have no output yet."""
        self._prefill_rate = PrefillRate()
        self._prefilling_since: float | None = None

    def __call__(self, config: VllmConfig, engine_index: int = 0) -> _LoadRecorder:
        del engine_index
        self._config = config
        return self

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        del mm_cache_stats, engine_idx
        now = monotonic()
        self._watch.step(now)
        self._record_prefill(iteration_stats, now)
        if scheduler_stats is None:
            return
        # BlockPool.get_usage() is a share of all blocks but the null block
        # (vllm/v1/core/block_pool.py, vLLM 0.32).
        usable = max((self._config.cache_config.num_gpu_blocks or 1) - 1, 0)
        self.latest = EngineLoad(
            running=scheduler_stats.num_running_reqs,
            waiting=scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs,
            kv_blocks_used=round(scheduler_stats.kv_cache_usage * usable),
            prefill_tokens_per_s=self._prefill_rate.per_second,
        )

    def _record_prefill(self, stats: Any, now: float) -> None:
        """vLLM tells of a prompt when it is computed, so the time since the last one belongs to
        it, or its own TTFT if nothing was being computed before."""
        if stats is None:
            return
        if computed := stats.prompt_token_stats.computed:
            since = self._prefilling_since
            seconds = max(stats.time_to_first_tokens_iter) if since is None else now - since
            self._prefill_rate.record(num_tokens=computed, seconds=seconds)
        if not self.queued_tokens():
            self._prefilling_since = None
        elif computed or self._prefilling_since is None:
            self._prefilling_since = now

    def log_engine_initialized(self) -> None: ...

    def log(self) -> None: ...

    def record_sleep_state(self, is_awake: int, level: int) -> None: ...
