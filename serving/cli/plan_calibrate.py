"""`galerne plan calibrate`: a measured timing for plans."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
import yaml

from serving.adapters.model_configs import bundled_models, load_model_config
from serving.adapters.probe_client import Endpoint
from serving.cli.console import err, progress
from serving.cli.new_file import check_new, write_new
from serving.cli.sim import api_key_in, measure_timing
from serving.planner.hardware import GPUS, find_gpu
from serving.planner.measured_timing import MeasuredTiming, measured_model
from serving.planner.replica_plan import ReplicaQuestion


def calibrate(  # noqa: PLR0913 - each is an option of the command
    url: Annotated[str, typer.Option(help="Of a running engine, or of Galerne.")],
    model: Annotated[str, typer.Option(help="The served name.")],
    model_config: Annotated[
        str,
        typer.Option(
            metavar="FILE|FOLDER|NAME",
            help="The model's config.json or params.json, its folder, or one of "
            f"{', '.join(bundled_models())}.",
        ),
    ],
    gpu: Annotated[str, typer.Option(help=f"What it runs on: {', '.join(GPUS)}.")],
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="GPUs that share each layer of it.")
    ] = 1,
    chunk_tokens: Annotated[
        int, typer.Option(min=16, help="The engine's max_num_batched_tokens.")
    ] = 2048,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="The engine's.")] = 256,
    kv_dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="The engine's kv_cache_dtype, for example fp8.")
    ] = "auto",
    window: Annotated[
        int | None,
        typer.Option(
            min=1, help="The model's sliding window in tokens. [default: none]", show_default=False
        ),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="VAR", help="Environment variable that holds the API key, if any."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="New file. [default: stdout]",
                     show_default=False),
    ] = None,
) -> None:  # fmt: skip
    """Measure a running engine for `galerne plan --calibration`.

    The roofline then only tells how steps change with tensor parallelism and chunk. Nothing else
    should use the engine meanwhile. Takes less than a minute on a GPU.
    """
    check_new(file, option="--out")
    target = Endpoint(url, model, api_key_in(api_key_env))
    replica = ReplicaQuestion(load_model_config(model_config), find_gpu(gpu), 1, kv_dtype=kv_dtype)
    measured_on = measured_model(model_config, replica.roofline(tensor_parallel))
    with progress("measuring") as tell:
        found = asyncio.run(measure_timing(target, chunk_tokens, window, tell))
    err.print(f"the model is within {found.worst_error_ratio:.0%} of every probe's median")
    measured = MeasuredTiming(
        model=measured_on,
        gpu=replica.gpu.name,
        tensor_parallel_size=tensor_parallel,
        max_num_batched_tokens=chunk_tokens,
        max_num_seqs=max_num_seqs,
        timing=found.timing,
    )
    text = yaml.safe_dump(measured.model_dump(mode="json"), sort_keys=False)
    if file is None:
        print(text, end="")
    else:
        write_new(file, text, option="--out")
