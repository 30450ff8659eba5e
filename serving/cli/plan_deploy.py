"""`galerne plan`: which deployment of a model serves a trace within an SLO."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.adapters.model_configs import bundled_models
from serving.adapters.settings_sources import read_config
from serving.cli.console import EXIT_FAILURE, err, out, print_json, progress
from serving.cli.lab_options import traced_demand
from serving.cli.new_file import check_new, write_new
from serving.cli.options import ConfigOption, read_settings
from serving.cli.plan_apply import Chosen, plan_settings
from serving.cli.plan_base import Base, check_same, own_config, planned_model, read_base
from serving.cli.plan_kv import longest
from serving.cli.plan_picture import check_picture, draw_report
from serving.cli.plan_report import Report, ranked_table, remarks, to_document
from serving.cli.plan_slo import DEFAULT_ITL_S, DEFAULT_TTFT_S, read_plan_slo
from serving.errors import ConfigError
from serving.planner.hardware import GPUS, Gpu, find_gpu
from serving.planner.measured_timing import MeasuredTiming, read_measured_timing
from serving.planner.model_config import ModelConfig
from serving.planner.replica_plan import ReplicaQuestion
from serving.settings.engine import EngineSettings

if TYPE_CHECKING:
    from serving.lab.deployment import DeploymentQuestion
    from serving.lab.fleet import Slo
    from serving.settings.platform import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """The question, as the command line has it."""

    model: str
    gpu: str
    trace: Path
    trace_format: str
    max_model_len: int | None
    kv_dtype: str | None
    block_size: int | None
    calibration: Path | None


def plan(  # noqa: PLR0913 - each is an option of the command
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FOLDER|NAME",
            help="config.json or params.json, a model folder, a model of --config, or one of "
            f"{', '.join(bundled_models())}.",
            show_default=False,
        ),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(GPUS)}.", show_default=False)
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Requests to serve.", show_default=False)
    ] = None,
    trace_format: Annotated[
        str, typer.Option("--format", help="Of the trace: azure, mooncake or galerne.")
    ] = "galerne",
    slo: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="SLO, as load tests have it.", show_default=False),
    ] = None,
    ttft_s: Annotated[
        float | None,
        typer.Option(
            min=0.001, help=f"SLO: TTFT. [default: {DEFAULT_TTFT_S:g}]", show_default=False
        ),
    ] = None,
    itl_s: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help=f"SLO: time between tokens. [default: {DEFAULT_ITL_S:g}]",
            show_default=False,
        ),
    ] = None,
    max_model_len: Annotated[
        int | None,
        typer.Option(min=1, help="Longest sequence. [default: the model's]", show_default=False),
    ] = None,
    kv_dtype: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="vLLM's kv_cache_dtype, for example fp8. [default: auto]",
            show_default=False,
        ),
    ] = None,
    block_size: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a KV block. [default: 16]", show_default=False),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measured timing, of `galerne plan calibrate`. [default: the roofline's]",
            show_default=False,
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            min=0.0001,
            help="Of a GPU for an hour. [default: planner.gpu_prices of --config]",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    top: Annotated[int, typer.Option(min=1, help="Show so many deployments.")] = 10,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw a PNG, a name in .png.", show_default=False),
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the best as a new config file for `galerne up`, over that of --config, "
            "whose engine options are then the defaults of those here.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Rank the deployments of a model that serve a trace within an SLO.

    Tensor parallelism, prefill chunk, concurrency and number of replicas are tried in virtual time
    on the whole trace, without prefix caches. 99 % of first tokens and of times between tokens are
    to be within the SLO, or as many as `attainment_ratio` of its file says, also while a replica
    has failed.
    """
    if context.invoked_subcommand is not None:
        return
    if model is None or gpu is None or trace is None:
        raise ConfigError(
            "--model, --gpu and --trace are needed",
            code="option_missing",
            param="--model" if model is None else "--gpu" if gpu is None else "--trace",
            hint="galerne plan --help",
        )
    _check_finite({"--price": price, "--ttft-s": ttft_s, "--itl-s": itl_s})
    check_new(apply, option="--apply")
    check_picture(picture)
    limits = read_plan_slo(slo, ttft_s=ttft_s, itl_s=itl_s)
    settings = read_settings(None, config=config, overrides=None) if config else None
    asked = Asked(model, gpu, trace, trace_format, max_model_len, kv_dtype, block_size, calibration)
    loaded = planned_model(model, settings)
    named = settings is not None and model in settings.models
    base = _base(model, settings, loaded) if apply or named else None
    listed = _listed_price(settings, find_gpu(gpu))
    report = _rank(question := _question(asked, limits, loaded, base), price or listed)
    _show(report, top=top, as_json=as_json)
    if apply is not None and base is not None and report.ranking.deployments:
        best = report.ranking.deployments[0]
        chosen = Chosen(best, question.replica, question.slo)
        write_new(apply, plan_settings(base, chosen), option="--apply")
        err.print(f"wrote {apply}: galerne up --config {apply}", soft_wrap=True)
    if picture is not None:
        draw_report(picture, report)
    if not report.ranking.deployments:
        raise typer.Exit(EXIT_FAILURE)


def _check_finite(options: Mapping[str, float | None]) -> None:
    for name, value in options.items():
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{value} is no such number", code="option_invalid", param=name)


def _base(asked: str, settings: Settings | None, planned: ModelConfig) -> Base:
    """
    Raises:
        ConfigError: as `read_base` and `check_same`.
    """
    base = read_base(asked, settings)
    if settings is not None:
        own = own_config(settings.models[base.name])
        check_same(base.name, own, planned)
        if own is None:
            err.print(f"[yellow]the files of {base.name} are not here: taken for {asked}[/yellow]")
    return base


def _question(asked: Asked, slo: Slo, model: ModelConfig, base: Base | None) -> DeploymentQuestion:
    from serving.lab.deployment import DeploymentQuestion, shorter_than

    engine = base.engine if base else EngineSettings()
    max_model_len = longest(model, asked.max_model_len or engine.max_model_len)
    demand = traced_demand(asked.trace, asked.trace_format)
    taken = shorter_than(demand, max_model_len)
    if longer := taken.num_dropped - demand.num_dropped:
        err.print(
            f"[yellow]{longer:,} of {demand.at_s.size:,} requests are longer than "
            f"{max_model_len:,} tokens and are left out[/yellow]"
        )
    replica = ReplicaQuestion(
        model=model,
        gpu=find_gpu(asked.gpu),
        max_model_len=max_model_len,
        kv_dtype=asked.kv_dtype or (base.kv_dtype if base else "auto"),
        block_size=asked.block_size or engine.block_size,
        measured=_measured(asked.calibration),
    )
    if replica.measured:
        replica.measured.check(replica.roofline(replica.measured.tensor_parallel_size))
    return DeploymentQuestion(replica, taken, slo)


def _rank(question: DeploymentQuestion, price: float | None) -> Report:
    from serving.lab.deployment import rank_deployments, window_saving

    with progress("plan") as tell:
        ranking = rank_deployments(question, tell=tell)
        best = next(iter(ranking.deployments), None)
        saving = window_saving(question, best) if best else None
    return Report(question, ranking, saving, price)


def _show(report: Report, *, top: int, as_json: bool) -> None:
    if as_json:
        print_json(to_document(report, top=top))
        return
    if report.ranking.deployments:
        out.print(ranked_table(report, top=top))
    else:
        err.print("[red]no deployment keeps the SLO[/red]")
    for line in remarks(report):
        err.print(f"[dim]{line}[/dim]", soft_wrap=True)


def _measured(path: Path | None) -> MeasuredTiming | None:
    """
    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    if path is None:
        return None
    try:
        document = read_config(path)
    except ConfigError as error:
        raise ConfigError(
            error.message, code="calibration_invalid", param="--calibration"
        ) from error
    return read_measured_timing(document)


def _listed_price(settings: Settings | None, gpu: Gpu) -> float | None:
    prices = settings.planner.gpu_prices if settings else {}
    return next((price for name, price in prices.items() if name.upper() == gpu.name), None)
