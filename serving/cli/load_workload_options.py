"""Options of `galerne load` on what is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.errors import ConfigError

if TYPE_CHECKING:
    from loadtest.workload.spec import Workload

_DURATION_S = 60.0
_FORMAT = "mooncake"
_DEFAULTS: Mapping[str, Any] = {
    "arrivals": "poisson:1",
    "prompt_tokens": "512",
    "output_tokens": "128",
}
_GIVEN = ("trace", "speed", "limit", "arrivals", "duration_s", "prompt_tokens", "output_tokens",
          "dialect", "stream", "ignore_eos", "seed")  # fmt: skip
"""What goes to the workload as it is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to send, as the command line names it; `None` where it does not."""

    workload: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Workload as YAML: several models, tenants, conversations. Instead of the next "
            "ones.",
            show_default=False,
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(help="Model to ask. [default: the only one served]", show_default=False),
    ] = None
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Trace to replay.", show_default=False)
    ] = None
    trace_format: Annotated[
        str, typer.Option("--format", help="Of the trace.", metavar="FORMAT")
    ] = _FORMAT
    speed: Annotated[
        float | None, typer.Option(min=1e-6, help="Of the trace's time.", show_default="1")
    ] = None
    limit: Annotated[
        int | None, typer.Option(min=1, help="First so many requests.", show_default="all")
    ] = None
    arrivals: Annotated[
        str | None,
        typer.Option(
            metavar="PROCESS",
            help="Requests a second: constant:10, poisson:5, gamma:5:2.5 (rate, coefficient of "
            "variation), ramp:1:20, step:5x60,50x30 (rate x seconds).",
            show_default="poisson:1",
        ),
    ] = None
    duration_s: Annotated[
        float | None,
        typer.Option(
            "--duration",
            min=0.1,
            help="Seconds in which requests begin.",
            show_default=f"{_DURATION_S:g}",
        ),
    ] = None
    prompt_tokens: Annotated[
        str | None,
        typer.Option(
            "--prompt-tokens",
            metavar="LENGTH",
            help="512, uniform:128:1024, normal:512:64 or lognormal:512:0.8:max=4000.",
            show_default="512",
        ),
    ] = None
    output_tokens: Annotated[
        str | None,
        typer.Option("--output-tokens", metavar="LENGTH", help="The same.", show_default="128"),
    ] = None
    dialect: Annotated[
        str | None,
        typer.Option(help="chat, completions, responses or messages.", show_default="chat"),
    ] = None
    stream: Annotated[
        bool | None,
        typer.Option("--stream/--no-stream", help="Ask for streams.", show_default="yes"),
    ] = None
    ignore_eos: Annotated[
        bool | None,
        typer.Option(
            "--ignore-eos/--no-ignore-eos",
            help="Answers go on to their full length. A field of vLLM's that other servers may "
            "refuse.",
            show_default="yes",
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of all that is random.", show_default="0")
    ] = None

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
                raise ConfigError(
                    "--workload says what to send: leave out the other options",
                    code="bad_option",
                    param="--workload",
                )
            return read_workload(self.workload)
        given = {name: getattr(self, name) for name in _GIVEN if getattr(self, name) is not None}
        if self.trace is not None:
            given |= {"format": self.trace_format}
        elif (self.speed, self.limit, self.trace_format) != (None, None, _FORMAT):
            raise ConfigError(
                "--format, --speed and --limit are for a --trace",
                code="bad_option",
                param="--trace",
            )
        else:
            given = {**_DEFAULTS, **given}
            if not given["arrivals"].startswith("step:"):
                given.setdefault("duration_s", _DURATION_S)
        return from_options(WorkloadOptions(model=self.model or only_model(), **given))
