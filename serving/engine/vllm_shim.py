"""Everything Galerne knows of vLLM's Python interface, in one file.

A new vLLM version is taken by reading this file against it, changing what moved, running the
end-to-end tests and raising `SUPPORTED_VERSION`.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from serving.core.progress import ProgressWatch
from serving.core.types import EngineDescription, EngineLoad
from serving.engine.kv_event_feed import KvEventFeed
from serving.engine.load_recorder import LoadRecorder
from serving.engine.resuming import journal_generations
from serving.engine.usage_meter import meter_requests
from serving.errors import ConfigError, EngineError
from serving.protocol.journal import Output
from serving.protocol.state_frames import CacheLayout
from serving.routing.block_hashing import BlockHasher
from serving.routing.block_namer import NO_CHANGE, BlockNamer, CacheChange, GroupedNames

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
    layout: CacheLayout
    _llm: AsyncLLM
    _loads: LoadRecorder
    _watch: ProgressWatch
    _events: KvEventFeed | None

    def load(self) -> EngineLoad:
        """Scheduler figures of the latest engine step, prompts that wait now, all work so far."""
        return self._loads.load()

    def cache_change(self) -> CacheChange:
        """What has changed in the prefix cache since the last call."""
        return self._events.changes() if self._events else NO_CHANGE

    def cached_blocks(self) -> GroupedNames:
        """What the prefix cache holds, if its layout says that it is told."""
        return self._events.held() if self._events else {}

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

    async def warm_up(self) -> None:
        """Let vLLM compile what it otherwise would within the first request for log probabilities:
        13 s on two cores, in which no other request gets a token.

        Several sequences make it a program for any number.
        """
        from vllm import SamplingParams

        if "generate" not in self.description.tasks:
            return
        params = SamplingParams(n=3, max_tokens=2, logprobs=1, seed=0, detokenize=False)
        async for _ in self._llm.generate({"prompt_token_ids": [1]}, params, "warm-up"):
            pass

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
        if self._events:
            self._events.close()


@dataclass(frozen=True, slots=True)
class KvEventSource:
    """Where the engine tells what it caches, the secret of the names that blocks are given, and the
    paths of LoRA adapters by name."""

    endpoint: str
    secret: bytes
    adapters: Mapping[str, str]


async def start_engine(
    arguments: list[str], *, hang_timeout_s: float, events: KvEventSource
) -> VllmEngine:
    """Load the weights and build vLLM's HTTP application on the running event loop.

    Args:
        arguments: vLLM server options, from `serving.engine.arguments`.
        events: of its KV cache.
        hang_timeout_s: the longest a single engine step may take.

    Raises:
        ConfigError: vLLM is unusable, or refuses the options.
    """
    import_vllm()
    args = parse_options(arguments)
    watch = ProgressWatch(hang_timeout_s)
    llm, loads = _start_llm(args, watch)
    meter_requests(llm)
    _journal(llm)
    await llm.reset_mm_cache()
    tasks = await llm.get_supported_tasks()
    app = await _build_app(llm, args, tasks)
    description = _describe(llm.vllm_config, tasks)
    window_blocks = await _window_blocks(llm, description.block_size)
    layout = CacheLayout(description.block_size, description.kv_blocks_total, window_blocks)
    feed = _feed(llm, events, layout) if window_blocks else None
    return VllmEngine(app, description, layout, llm, loads, watch, feed)


def _journal(llm: AsyncLLM) -> None:
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.v1.engine.exceptions import EngineDeadError

    def make_output(request_id: str, prompt: Mapping[str, Any], noted: Output) -> Any:
        answer = CompletionOutput(
            index=0,
            text=noted.text,
            token_ids=noted.token_ids,
            cumulative_logprob=None,
            logprobs=None,
            finish_reason=noted.finish_reason,
            stop_reason=noted.stop_reason,
        )
        return RequestOutput(
            request_id,
            prompt=prompt.get("prompt"),
            prompt_token_ids=prompt["prompt_token_ids"],
            prompt_logprobs=None,
            outputs=[answer],
            finished=noted.finish_reason is not None,
            num_cached_tokens=noted.num_cached_tokens,
            num_cache_creation_tokens=noted.num_created_tokens,
        )

    journal_generations(llm, make_output, EngineDeadError)


async def _window_blocks(llm: AsyncLLM, block_size: int) -> tuple[int | None, ...]:
    """For each KV-cache group the blocks that its attention reaches back, `None` for all of them;
    nothing for models with a group of another kind, whose hits nobody here foretells."""
    groups = await llm.engine_core.call_utility_async("get_kv_cache_group_metadata")
    found: list[int | None] = []
    for group in groups:
        match group:
            case {"kind": "full_attention", "block_size": size} if size == block_size:
                found.append(None)
            case {"kind": "sliding_window", "block_size": size, "sliding_window": int(window)} if (
                size == block_size
            ):
                found.append(-(-(window - 1) // block_size))
            case _:
                return ()
    return tuple(found)


def _feed(llm: AsyncLLM, events: KvEventSource, layout: CacheLayout) -> KvEventFeed:
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import hash_block_tokens, init_none_hash

    hash_function = get_hash_fn_by_name(llm.vllm_config.cache_config.prefix_caching_hash_algo)
    init_none_hash(hash_function)
    _tell_salts(llm)
    namer = BlockNamer(
        BlockHasher(events.secret, block_size=layout.block_size),
        max_expected=2 * layout.total_blocks,
    )
    hash_block: Any = partial(hash_block_tokens, hash_function)
    return KvEventFeed(events.endpoint, namer, hash_block, events.adapters)


def _tell_salts(llm: AsyncLLM) -> None:
    """Let each request's events carry its salt, and let no client choose what they repeat.

    `kv_cache_report_mode: full` would tell cached blocks again, as if there were more copies.
    """
    add_request = llm.add_request

    async def add_salted(request_id: str, prompt: Any, params: Any, **options: Any) -> Any:
        options["session_id"] = prompt.get("cache_salt") if isinstance(prompt, dict) else None
        if extra := getattr(params, "extra_args", None):
            extra.pop("kv_cache_report_mode", None)
        return await add_request(request_id, prompt, params, **options)

    llm.add_request = add_salted  # generate() asks the instance


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


def _start_llm(args: Namespace, watch: ProgressWatch) -> tuple[AsyncLLM, LoadRecorder]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    config = AsyncEngineArgs.from_cli_args(args).create_engine_config(
        usage_context=UsageContext.OPENAI_API_SERVER
    )
    loads = LoadRecorder(config, watch)
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
        max_num_batched_tokens=config.scheduler_config.max_num_batched_tokens,
    )
