"""`galerne plan kv`: how many sequences a KV cache holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from serving.adapters.model_configs import bundled_models, load_model_config
from serving.cli.console import out, print_json
from serving.errors import ConfigError
from serving.operations.quantities import to_number
from serving.planner.chunk import choose_chunk, lengths_of
from serving.planner.engine_device import CPU, EngineDevice, gpu_device
from serving.planner.hardware import GPUS, find_gpu
from serving.planner.kv_cache import (
    KvCachePlan,
    KvLayout,
    KvOptions,
    kv_layout,
    plan_kv_cache,
)
from serving.planner.model_config import ModelConfig

_MOST_BYTES = 1 << 50
"""1 PiB: beyond any GPU, so that a slip of the pen is no figure of hundreds of digits."""


class Device(StrEnum):
    """The kinds of device whose defaults in vLLM are known."""

    CPU = "cpu"
    GPU = "gpu"


class Dtype(StrEnum):
    """Values of vLLM's option `--dtype`."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@dataclass(frozen=True, slots=True)
class Question:
    """How many sequences of at most so many tokens so many bytes hold."""

    layout: KvLayout
    max_model_len: int
    kv_bytes: int
    device: EngineDevice

    def plan(self, chunk_tokens: int) -> KvCachePlan:
        """The answer, if prompts are computed in such chunks."""
        lengths = lengths_of(self.max_model_len, chunk_tokens, device=self.device)
        return plan_kv_cache(self.layout, lengths, kv_bytes=self.kv_bytes)

    def plan_without_windows(self) -> KvCachePlan | None:
        """The answer if no layer forgot anything, `None` if not one sequence would fit."""
        lengths = lengths_of(self.max_model_len, 1, device=self.device)
        try:
            return plan_kv_cache(self.layout.without_windows(), lengths, kv_bytes=self.kv_bytes)
        except ConfigError:
            return None

    def chosen_chunk(self) -> int:
        """What `galerne up` would set, unless more sequences decode together."""
        choice = choose_chunk(
            self.layout, max_model_len=self.max_model_len, max_num_seqs=1, device=self.device
        )
        return choice.tokens or self.device.default_chunk_tokens


def kv(  # noqa: PLR0913 - each is an option of the command
    config: Annotated[
        str,
        typer.Option(
            metavar="FILE|FOLDER|NAME",
            help="config.json or params.json, a model folder, or one of "
            f"{', '.join(bundled_models())}.",
        ),
    ],
    kv_bytes: Annotated[
        str, typer.Option(metavar="BYTES", help="KV cache of each GPU; units as in 1GiB or 40GB.")
    ],
    max_model_len: Annotated[
        int | None,
        typer.Option(min=1, help="Longest sequence. [default: the model's]", show_default=False),
    ] = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="vLLM's max_num_batched_tokens. [default: as `galerne up` chooses]",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        Device, typer.Option(help="Whose block size and steps in flight.")
    ] = Device.CPU,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Whose default chunk is taken; implies --device gpu. One of {', '.join(GPUS)}.",
        ),
    ] = None,
    block_size: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a block. [default: the device's]", show_default=False),
    ] = None,
    kv_dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="vLLM's kv_cache_dtype, for example fp8.")
    ] = "auto",
    dtype: Annotated[Dtype, typer.Option(help="The model's type.")] = Dtype.AUTO,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs that share each layer.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Tell how many sequences a KV cache holds, as vLLM would report it at its start."""
    model = load_model_config(config)
    options = KvOptions(block_size, kv_dtype, dtype.value, tensor_parallel)
    engine_device = _engine_device(device, gpu)
    question = Question(
        layout=kv_layout(model, options, device=engine_device),
        max_model_len=longest(model, max_model_len),
        kv_bytes=parse_bytes(kv_bytes),
        device=engine_device,
    )
    chunk = chunk_tokens or question.chosen_chunk()
    if as_json:
        print_json(to_document(question.plan(chunk)))
    else:
        out.print(_table(question, chunk))


def _engine_device(device: Device, gpu: str | None) -> EngineDevice:
    if gpu is not None:
        return gpu_device(find_gpu(gpu).accelerator_type)
    return CPU if device is Device.CPU else gpu_device(None)


def to_document(plan: KvCachePlan) -> dict[str, Any]:
    """The figures as vLLM's log shows them, the concurrency in hundredths."""
    return {
        "bytes_per_block": plan.bytes_per_block,
        "num_blocks": plan.num_blocks,
        "kv_cache_tokens": plan.kv_cache_tokens,
        "max_concurrency": round(plan.max_concurrency, 2),
    }


def parse_bytes(text: str) -> int:
    """An amount of memory; `Gi` is 1024**3, `G` 1000**3.

    Raises:
        ConfigError: it is none, nothing, or beyond any GPU.

    >>> parse_bytes("1073741824"), parse_bytes("1GiB"), parse_bytes("1.5 GB")
    (1073741824, 1073741824, 1500000000)
    """
    try:
        amount = int(to_number(text.replace(" ", "").removesuffix("B")))
    except (ValueError, OverflowError):
        amount = 0
    if amount < 1:
        raise ConfigError(
            f"{text!r} is no amount of memory",
            code="setting_invalid",
            param="kv_bytes",
            hint="write bytes, or a number with kB, MB, GB, TB, KiB, MiB, GiB or TiB",
        )
    if amount > _MOST_BYTES:
        raise ConfigError(
            f"{text!r} is more memory than any GPU has",
            code="setting_invalid",
            param="kv_bytes",
            hint="give what one GPU has for its KV cache, at most 1024TiB",
        )
    return amount


def longest(model: ModelConfig, asked: int | None) -> int:
    """The longest sequence in tokens: what is asked for, or vLLM's default for the model.

    Raises:
        ConfigError: vLLM would refuse a sequence of that length.
    """
    if asked is not None and asked > model.max_model_len:
        raise ConfigError(
            f"max_model_len is {asked:,}; the model takes sequences of {model.max_model_len:,}",
            code="setting_invalid",
            param="max_model_len",
            hint="lower it, or leave it out",
        )
    return asked or model.default_model_len


def _table(question: Question, chunk_tokens: int) -> Table:
    table = Table(box=None, show_header=False)
    for name, value in _rows(question, chunk_tokens):
        table.add_row(f"[bold]{name}[/bold]", value)
    return table


def _rows(question: Question, chunk_tokens: int) -> Iterator[tuple[str, str]]:
    layout, plan = question.layout, question.plan(chunk_tokens)
    yield "sequences", f"{plan.max_concurrency:.2f} of {question.max_model_len:,} tokens"
    yield "KV cache", f"{plan.kv_cache_tokens:,} tokens"
    size = f"{layout.groups[0].block_size} tokens, {plan.bytes_per_block:,} bytes each"
    yield "blocks", f"{plan.num_blocks:,} of {size}"
    kinds = Counter((group.num_layers, group.window) for group in layout.groups)
    yield "layers", "; ".join(_kind(*kind, count=count) for kind, count in kinds.items())
    yield "chunk", _chunk(question.device, chunk_tokens)
    if any(group.window for group in layout.groups):
        full = question.plan_without_windows()
        yield "if full", f"{full.max_concurrency:.2f} sequences" if full else "not one sequence"
        if (chosen := question.chosen_chunk()) < chunk_tokens:
            better = question.plan(chosen).max_concurrency
            yield "could be", f"{better:.2f} sequences, in chunks of {chosen:,} tokens"


def _chunk(device: EngineDevice, tokens: int) -> str:
    told = f"{tokens:,} tokens, {device.num_concurrent_steps} in flight on {device.name}"
    if device.is_default_assumed and tokens == device.default_chunk_tokens:
        return f"{told} (vLLM's default from 70 GiB, assumed: --gpu says which)"
    return told


def _kind(num_layers: int, window: int | None, *, count: int) -> str:
    """A group of layers, of which there are `count`.

    >>> _kind(9, 32768, count=3)
    '3 x 9 that see 32,768 tokens'
    """
    times = f"{count} x " if count > 1 else ""
    return f"{times}{num_layers} that see {f'{window:,} tokens' if window else 'all'}"
