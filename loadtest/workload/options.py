"""A workload of one part, from the options of a command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.workload.request import Dialect
from loadtest.workload.spec import Workload, to_workload
from serving.errors import ConfigError

TRAFFIC = "load"
"""Name of the only traffic."""

_OPTIONS = {
    "duration_s": "--duration",
    "arrivals.path": "--trace",
    "arrivals.format": "--format",
    "arrivals.speed": "--speed",
    "arrivals.limit": "--limit",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    """As the user gave them; `None` is not given.

    Either `trace`, with `format`, `speed` and `limit`, or `arrivals`, `prompt_tokens` and
    `output_tokens`, short texts as `processes.py` and `lengths.py` have them.
    """

    model: str
    seed: int = 0
    duration_s: float | None = None
    arrivals: str | None = None
    prompt_tokens: str | None = None
    output_tokens: str | None = None
    trace: Path | None = None
    format: str = "mooncake"
    speed: float = 1.0
    limit: int | None = None
    dialect: Dialect = "chat"
    stream: bool = True
    ignore_eos: bool = True


def from_options(options: WorkloadOptions) -> Workload:
    """The workload that the options ask for.

    >>> asked = WorkloadOptions(
    ...     model="m", arrivals="constant:2", duration_s=1, prompt_tokens="9", output_tokens="3"
    ... )
    >>> [(s.at_s, s.turns[0].prompt_tokens) for s in from_options(asked).sessions()]
    [(0.0, 9), (0.5, 9)]

    Raises:
        ConfigError: an option is wrong, or does not go with another; `param` is the option.
    """
    if (options.trace is None) == (options.arrivals is None):
        raise ConfigError(
            "a workload has either arrivals or a trace",
            code="workload_invalid",
            param="--arrivals",
            hint="for example --arrivals poisson:5, or --trace FILE --format mooncake",
        )
    try:
        return to_workload(_document(options))
    except ConfigError as error:
        prefix = f"traffic.{TRAFFIC}."
        field = (error.param or "").removeprefix(prefix)
        raise ConfigError(
            error.message.replace(prefix, ""),
            code=error.code,
            param=_OPTIONS.get(field, f"--{field.split('.')[0].replace('_', '-')}"),
        ) from error


def _document(options: WorkloadOptions) -> dict[str, Any]:
    arrivals: Any = options.arrivals
    if options.trace is not None:
        arrivals = {
            "process": "trace",
            "path": options.trace,
            "format": options.format,
            "speed": options.speed,
            "limit": options.limit,
        }
    traffic = {
        "model": options.model,
        "dialect": options.dialect,
        "stream": options.stream,
        "ignore_eos": options.ignore_eos,
        "arrivals": arrivals,
        "prompt_tokens": options.prompt_tokens,
        "output_tokens": options.output_tokens,
    }
    return {"seed": options.seed, "duration_s": options.duration_s, "traffic": {TRAFFIC: traffic}}
