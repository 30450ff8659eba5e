"""The SLO of a plan, from options or from a load test's file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from serving.cli.console import err
from serving.errors import ConfigError

if TYPE_CHECKING:
    from loadtest.verdict.slo import Limits
    from serving.lab.fleet import Slo

DEFAULT_TTFT_S, DEFAULT_ITL_S = 2.0, 0.08

_TTFT = ("ttft_ms",)
_ITL = ("itl_ms", "tpot_ms")
_PLANNED = frozenset({*_TTFT, *_ITL})


def read_plan_slo(path: Path | None, *, ttft_s: float | None, itl_s: float | None) -> Slo:
    """What is asked of first tokens and of times between tokens; options come before the file.

    Of a file count the limits of a request, else the 99th percentiles, and `attainment_ratio`. A
    limit that it does not set is none. `tpot_ms` stands in for `itl_ms`.

    Raises:
        ConfigError: the file cannot be read, or limits neither.
    """
    from serving.lab.fleet import Slo  # Its compiler takes seconds to import.

    if path is None:
        return Slo(ttft_s=ttft_s or DEFAULT_TTFT_S, itl_s=itl_s or DEFAULT_ITL_S)
    from loadtest.verdict.slo import read_slo

    limits = read_slo(path)
    found = Slo(
        ttft_s=ttft_s or _seconds(limits, _TTFT),
        itl_s=itl_s or _seconds(limits, _ITL),
        ratio=limits.attainment_ratio,
    )
    if math.isinf(found.ttft_s) and math.isinf(found.itl_s):
        raise ConfigError(
            f"{path} limits neither the time to the first token nor that between tokens",
            code="slo_unusable",
            param="--slo",
            hint="set request.ttft_ms and request.itl_ms there, or give --ttft-s and --itl-s",
        )
    if others := _not_planned(limits):
        err.print(f"[dim]not planned for: {', '.join(others)}[/dim]", soft_wrap=True)
    return found


def _seconds(limits: Limits, names: tuple[str, ...]) -> float:
    """The limit of the first of those that has one; infinity where none has."""
    for name in names:
        if limits.request and (limit := getattr(limits.request, name)) is not None:
            return float(limit) / 1000
        quantiles = getattr(limits.percentiles, name) if limits.percentiles else None
        if quantiles and quantiles.p99 is not None:
            return float(quantiles.p99) / 1000
    return math.inf


def _not_planned(limits: Limits) -> list[str]:
    """Names of limits that a plan does not look at."""
    parts = [part for part in (limits.request, limits.percentiles) if part is not None]
    asked = {name for part in parts for name, limit in part if limit is not None}
    whole = ("goodput_rps", "output_tokens_per_s", "traffic")
    asked |= {name for name in whole if getattr(limits, name, None)}
    return sorted(asked - _PLANNED)
