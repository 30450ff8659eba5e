"""Options of `galerne load`, and the load test they lead to."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.errors import ConfigError

if TYPE_CHECKING:
    from loadtest.generator.run import Listen, Plan
    from loadtest.generator.target import Target
    from loadtest.workload.spec import Workload

EXIT_STATUS = (
    "Exit status: 0 the SLO is met or none was given, 1 it is not met or the test failed, "
    "2 wrong usage, 4 the generator was the bottleneck, 130 interrupted."
)
DEFAULT_DURATION_S = 60.0
_FIELD = re.compile(r"traffic\.all\.([a-z_]+)[a-z_.]*")
_DEFAULT_TRAFFIC: Mapping[str, Any] = {
    "arrivals": "poisson:1",
    "prompt_tokens": 512,
    "output_tokens": 128,
}

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
        help="512, uniform:100:1000, normal:512:64 or lognormal:512:0.8:max=4000.",
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
SeedOption = Annotated[
    int | None, typer.Option(min=0, help="Of all that is random.", show_default="0")
]
SloOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="SLO as YAML; without one there is no verdict.",
                 show_default=False),
]  # fmt: skip
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
class Traffic:
    """What to send, as the command line names it; `None` where it does not."""

    model: str | None = None
    trace: Path | None = None
    trace_format: str = "mooncake"
    speed: float | None = None
    limit: int | None = None
    arrivals: str | None = None
    prompt_tokens: str | None = None
    output_tokens: str | None = None
    dialect: str | None = None
    stream: bool | None = None

    def to_document(self, model: str) -> dict[str, Any]:
        """One part of a workload.

        Raises:
            ConfigError: options that do not go together.
        """
        given = {
            name: value
            for name in ("arrivals", "prompt_tokens", "output_tokens", "dialect", "stream")
            if (value := getattr(self, name)) is not None
        }
        if self.trace is None:
            if self.speed is not None or self.limit is not None:
                raise _conflict("--speed and --limit are for a --trace", "--trace")
            return {"model": model, **_DEFAULT_TRAFFIC, **given}
        for name in ("arrivals", "prompt_tokens", "output_tokens"):
            if name in given:
                option = f"--{name.replace('_', '-')}"
                raise _conflict(f"the trace has its own: leave out {option}", option)
        replay = {"process": "trace", "path": str(self.trace.absolute())}
        replay |= {"format": self.trace_format}
        if self.speed is not None:
            replay |= {"speed": self.speed}  # type: ignore[dict-item]
        if self.limit is not None:
            replay |= {"limit": self.limit}  # type: ignore[dict-item]
        return {"model": model, "arrivals": replay, **given}


@dataclass(frozen=True, slots=True)
class Sending:
    """From where and how it is sent."""

    url: str
    key: str | None
    workers: int
    listen: str | None
    timeout_s: float
    tokenizer: Path | None
    ca_file: Path | None


def make_plan(
    sending: Sending,
    traffic: Traffic,
    *,
    workload: Path | None,
    duration_s: float | None,
    seed: int | None,
) -> Plan:
    """The load test that the options describe.

    Raises:
        ConfigError: options that do not go together, or a document that is no workload.
    """
    from loadtest.generator.run import Plan
    from loadtest.generator.target import Target

    target = Target.parse(sending.url, sending.ca_file)
    return Plan(
        target,
        _workload(
            traffic if workload else _named(traffic, target, sending.key),
            file=workload,
            duration_s=duration_s,
            seed=seed,
        ),
        key=sending.key,
        timeout_s=sending.timeout_s,
        num_workers=sending.workers,
        tokenizer=None if sending.tokenizer is None else sending.tokenizer.absolute(),
        listen=_listen(sending.listen),
    )


def _named(traffic: Traffic, target: Target, key: str | None) -> Traffic:
    """With the only model that is served, if it names none."""
    from loadtest.generator import preflight

    if traffic.model is not None:
        return traffic
    return replace(traffic, model=asyncio.run(preflight.only_model(target, key)))


def _workload(
    traffic: Traffic, *, file: Path | None, duration_s: float | None, seed: int | None
) -> Workload:
    from loadtest.workload.spec import read_workload, to_workload

    if file is not None:
        if traffic != Traffic() or duration_s is not None or seed is not None:
            raise _conflict(
                "--workload says what to send: leave out the other options", "--workload"
            )
        return read_workload(file)
    if duration_s is None and traffic.trace is None and "step:" not in (traffic.arrivals or ""):
        duration_s = DEFAULT_DURATION_S
    document: dict[str, Any] = {
        "traffic": {"all": traffic.to_document(traffic.model or "")},
        **({} if duration_s is None else {"duration_s": duration_s}),
        **({} if seed is None else {"seed": seed}),
    }
    try:
        return to_workload(document)
    except ConfigError as error:
        raise _in_terms_of_options(error) from error


def _in_terms_of_options(error: ConfigError) -> ConfigError:
    message = _FIELD.sub(_option, error.message)
    param = None if error.param is None else _FIELD.sub(_option, error.param)
    return ConfigError(message, code=error.code, param=param)


def _option(field: re.Match[str]) -> str:
    return f"--{field[1].replace('_', '-')}"


def _listen(address: str | None) -> Listen | None:
    from loadtest.generator.messages import TOKEN_VARIABLE
    from loadtest.generator.run import Listen

    if address is None:
        return None
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise _conflict(f"{address!r} is not HOST:PORT", "--listen")
    if not (token := os.environ.get(TOKEN_VARIABLE)):
        raise ConfigError(
            f"{TOKEN_VARIABLE} is not set",
            code="token_missing",
            param="--listen",
            hint=f"export {TOKEN_VARIABLE}=$(openssl rand -hex 32), here and for the workers",
        )
    return Listen(host.strip("[]"), int(port), token)


def _conflict(message: str, option: str) -> ConfigError:
    return ConfigError(message, code="bad_option", param=option)
