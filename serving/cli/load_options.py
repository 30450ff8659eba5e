"""Options of `galerne load`, and the load test they lead to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.errors import ConfigError

if TYPE_CHECKING:
    from loadtest.generator.run import Listen, Plan
    from loadtest.workload.spec import Workload

EXIT_STATUS = (
    "Exit status: 0 the SLO is met or none was given, 1 it is not met or the test failed, "
    "2 wrong usage, 4 the generator was the bottleneck, 130 interrupted."
)
GATE_STATUS = (
    "Exit status: 0 nothing is worse for certain, 1 something is or nothing can be told, "
    "2 wrong usage."
)
DEFAULT_DURATION_S = 60.0
_MAX_PORT = 65_535
DEFAULT_FORMAT = "mooncake"
_DEFAULTS: Mapping[str, Any] = {
    "arrivals": "poisson:1",
    "prompt_tokens": "512",
    "output_tokens": "128",
}
_GIVEN = ("trace", "speed", "limit", "arrivals", "duration_s", "prompt_tokens", "output_tokens",
          "dialect", "stream", "ignore_eos", "seed")  # fmt: skip
"""What goes to the workload as it is."""

UrlOption = Annotated[
    str,
    typer.Option(
        envvar="GALERNE_URL", help="The endpoint, with or without /v1.", show_default=False
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        envvar="GALERNE_API_KEY",
        help="API key. Better in the environment: arguments show in the list of processes.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Model to ask. [default: the only one served]", show_default=False),
]
WorkloadOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Workload as YAML: several models, tenants, conversations. Instead of the next ones.",
        show_default=False,
    ),
]
TraceOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Trace to replay.", show_default=False)
]
FormatOption = Annotated[str, typer.Option("--format", help="Of the trace.", metavar="FORMAT")]
SpeedOption = Annotated[
    float | None, typer.Option(min=1e-6, help="Of the trace's time.", show_default="1")
]
LimitOption = Annotated[
    int | None, typer.Option(min=1, help="First so many requests.", show_default="all")
]
ArrivalsOption = Annotated[
    str | None,
    typer.Option(
        metavar="PROCESS",
        help="Requests a second: constant:10, poisson:5, gamma:5:2.5 (rate, coefficient of "
        "variation), ramp:1:20, step:5x60,50x30 (rate x seconds).",
        show_default="poisson:1",
    ),
]
DurationOption = Annotated[
    float | None,
    typer.Option("--duration", min=0.1, help="Seconds in which requests begin.",
                 show_default=f"{DEFAULT_DURATION_S:g}"),
]  # fmt: skip
PromptOption = Annotated[
    str | None,
    typer.Option(
        "--prompt-tokens",
        metavar="LENGTH",
        help="512, uniform:128:1024, normal:512:64 or lognormal:512:0.8:max=4000.",
        show_default="512",
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option("--output-tokens", metavar="LENGTH", help="The same.", show_default="128"),
]
DialectOption = Annotated[
    str | None,
    typer.Option(help="chat, completions, responses or messages.", show_default="chat"),
]
StreamOption = Annotated[
    bool | None, typer.Option("--stream/--no-stream", help="Ask for streams.", show_default="yes")
]
IgnoreEosOption = Annotated[
    bool | None,
    typer.Option(
        "--ignore-eos/--no-ignore-eos",
        help="Answers go on to their full length. A field of vLLM's that other servers may refuse.",
        show_default="yes",
    ),
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, help="Of all that is random.", show_default="0")
]
SloOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="SLO as YAML; without one there is no verdict.",
                 show_default=False),
]  # fmt: skip
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Folder for the report and its figures. [default: galerne-load-TIME]",
        show_default=False,
    ),
]
LastLineOption = Annotated[
    bool, typer.Option("--json", help="Print one line of JSON as the last one.")
]
WorkersOption = Annotated[
    int, typer.Option(min=1, max=1000, help="Processes that send; one does for most.")
]
ListenOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Wait there for --workers of `galerne load worker` instead of starting them. They "
        "show the secret in GALERNE_LOAD_TOKEN.",
        show_default=False,
    ),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds for one request, to its end.")
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="A model's tokenizer.json or its folder, for prompts of exactly so many tokens.",
        show_default=False,
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Authorities to trust instead of the system's.",
                 show_default=False),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What to send, as the command line names it; `None` where it does not."""

    workload: WorkloadOption = None
    model: ModelOption = None
    trace: TraceOption = None
    trace_format: FormatOption = DEFAULT_FORMAT
    speed: SpeedOption = None
    limit: LimitOption = None
    arrivals: ArrivalsOption = None
    duration_s: DurationOption = None
    prompt_tokens: PromptOption = None
    output_tokens: OutputOption = None
    dialect: DialectOption = None
    stream: StreamOption = None
    ignore_eos: IgnoreEosOption = None
    seed: SeedOption = None

    def to_workload(self, only_model: Callable[[], str]) -> Workload:
        """The workload that is asked for.

        Args:
            only_model: finds out which model to ask where none is named.

        Raises:
            ConfigError: options that do not go together, or that make no workload.
        """
        from loadtest.workload.options import WorkloadOptions, from_options
        from loadtest.workload.spec import read_workload

        if self.workload is not None:
            if self != Asked(self.workload):
                raise _conflict(
                    "--workload says what to send: leave out the other options", "--workload"
                )
            return read_workload(self.workload)
        given = {name: getattr(self, name) for name in _GIVEN if getattr(self, name) is not None}
        if self.trace is not None:
            given |= {"format": self.trace_format}
        elif (self.speed, self.limit, self.trace_format) != (None, None, DEFAULT_FORMAT):
            raise _conflict("--format, --speed and --limit are for a --trace", "--trace")
        else:
            given = {**_DEFAULTS, **given}
            if not given["arrivals"].startswith("step:"):
                given.setdefault("duration_s", DEFAULT_DURATION_S)
        return from_options(WorkloadOptions(model=self.model or only_model(), **given))


@dataclass(frozen=True, slots=True)
class Sending:
    """Where to, and how it is sent."""

    url: UrlOption
    key: KeyOption = None
    workers: WorkersOption = 1
    listen: ListenOption = None
    timeout_s: TimeoutOption = 300.0
    tokenizer: TokenizerOption = None
    ca_file: CaOption = None


@dataclass(frozen=True, slots=True)
class Reporting:
    """What becomes of a run."""

    out_folder: OutOption = None
    title: Annotated[str, typer.Option(help="Of the report.")] = "Load test"
    prometheus: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A Prometheus that scrapes the platform: the report then shows replicas.",
            show_default=False,
        ),
    ] = None
    as_json: LastLineOption = False


@dataclass(frozen=True, slots=True)
class Search:
    """How a capacity is searched."""

    start_rps: Annotated[
        float, typer.Option("--start", min=1e-3, help="Rate that is tried first, per second.")
    ] = 1.0
    max_rps: Annotated[
        float, typer.Option("--max", min=1e-3, help="Highest rate that is tried.")
    ] = 1000.0
    precision: Annotated[
        float,
        typer.Option(min=0.001, max=1, help="How far above a rate may be that does not hold."),
    ] = 0.05
    repeats: Annotated[int, typer.Option(min=1, max=20, help="Runs at the rate found.")] = 3


@dataclass(frozen=True, slots=True)
class Judging:
    """When B counts as worse."""

    max_regression: Annotated[
        float, typer.Option(min=1, help="How many times as long anything may take.")
    ] = 1.05
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIGURE=RATIO",
            help="Another limit for one figure, such as ttft_ms.p99=1.3. Repeatable.",
            show_default=False,
        ),
    ] = None

    def to_tolerances(self) -> dict[str, float]:
        """By figure.

        Raises:
            ConfigError: one is not FIGURE=RATIO.
        """
        found = {}
        for text in self.tolerance or ():
            name, _, value = text.partition("=")
            try:
                found[name] = float(value)
            except ValueError:
                raise _conflict(f"{text!r} is not FIGURE=RATIO", "--tolerance") from None
        return found


def make_plan(sending: Sending, asked: Asked) -> Plan:
    """The load test that the options describe.

    Raises:
        ConfigError: options that do not go together, or a document that is no workload.
    """
    from loadtest.generator import preflight
    from loadtest.generator.keys import to_secret
    from loadtest.generator.run import Plan
    from loadtest.generator.target import Target

    target = Target.parse(sending.url, sending.ca_file)
    key = None if sending.key is None else to_secret(sending.key, "--key") or None

    def only_model() -> str:
        return asyncio.run(preflight.only_model(target, key))

    return Plan(
        target,
        asked.to_workload(only_model),
        key=key,
        timeout_s=sending.timeout_s,
        num_workers=sending.workers,
        tokenizer=None if sending.tokenizer is None else sending.tokenizer.absolute(),
        listen=_listen(sending.listen),
    )


def _listen(address: str | None) -> Listen | None:
    from loadtest.generator.keys import secret_in
    from loadtest.generator.messages import TOKEN_VARIABLE
    from loadtest.generator.run import Listen

    if address is None:
        return None
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= _MAX_PORT:
        raise _conflict(f"{address!r} is not HOST:PORT, a port from 1 to {_MAX_PORT}", "--listen")
    if (token := secret_in(TOKEN_VARIABLE)) is None:
        raise ConfigError(
            f"{TOKEN_VARIABLE} is not set",
            code="token_missing",
            param="--listen",
            hint=f"export {TOKEN_VARIABLE}=$(openssl rand -hex 32), here and for the workers",
        )
    return Listen(host.strip("[]"), int(port), token)


def _conflict(message: str, option: str) -> ConfigError:
    return ConfigError(message, code="bad_option", param=option)
