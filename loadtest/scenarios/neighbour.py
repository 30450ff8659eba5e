"""What does a tenant notice of another one that floods the platform?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.scenarios import requests
from loadtest.scenarios.finding import Finding, doubts
from loadtest.scenarios.stage import Run, Stage
from loadtest.verdict.checks import at_least, at_most
from loadtest.verdict.summary import Part, Summary
from serving.cli.load_run import Outcome
from serving.errors import ConfigError

NAME = "neighbour"
_QUIET, _NOISY = "quiet", "noisy"


@dataclass(frozen=True, slots=True)
class Plan:
    """A quiet tenant with a small share of the capacity, alone and then beside one who asks for
    twice all of it. It keeps its goodput, and its TTFT is not many times what it was.

    The first `settle_ratio` of each run does not count in the TTFT: a flood that finds a platform
    empty fills it, and until its first answers end there is no place to be had. It does count in
    the goodput."""

    duration_s: float = 40.0
    quiet_ratio: float = 0.2
    noisy_ratio: float = 2.0
    settle_ratio: float = 0.3
    least_goodput_ratio: float = 0.9
    most_ttft_ratio: float = 3.0


def run(stage: Stage, plan: Plan, folder: Path) -> Finding:
    """The quiet tenant with and without its neighbour.

    Raises:
        ConfigError: there is no key of a second tenant.
    """
    quiet = stage.traffic(f"poisson:{plan.quiet_ratio * stage.capacity_rps:g}")
    noisy = stage.traffic(
        f"poisson:{plan.noisy_ratio * stage.capacity_rps:g}", key_env=_key_env(stage)
    )
    alone = Run("A quiet tenant alone", {_QUIET: quiet}, plan.duration_s).perform(stage)
    both = Run("A quiet tenant beside a noisy one", {_QUIET: quiet, _NOISY: noisy},
               plan.duration_s).perform(stage)  # fmt: skip
    for outcome, name in ((alone, "alone"), (both, "beside")):
        (folder / name).mkdir()
        outcome.write(folder / name)
    before, after = _part(alone.summary, _QUIET), _part(both.summary, _QUIET)
    figures: dict[str, Any] = {
        "goodput_share_alone": before.attainment_ratio,
        "goodput_share_beside": after.attainment_ratio,
        "goodput_ratio": _ratio(after.attainment_ratio, before.attainment_ratio),
        "ttft_p99_ratio": _ratio(_settled_p99_ms(both, plan), _settled_p99_ms(alone, plan)),
        "ttft_ms_alone": requests.quantiles(before.ttft_ms),
        "ttft_ms_beside": requests.quantiles(after.ttft_ms),
        "quiet_failed": after.failed,
        "noisy_goodput_rps": _part(both.summary, _NOISY).goodput_rps,
    }
    checks = (
        at_least("goodput_ratio", plan.least_goodput_ratio, figures["goodput_ratio"]),
        at_most("ttft_p99_ratio", plan.most_ttft_ratio, figures["ttft_p99_ratio"]),
    )
    return Finding(NAME, figures, checks, doubts([alone.summary, both.summary]))


def _key_env(stage: Stage) -> str:
    if stage.neighbour_key_env is None:
        raise ConfigError(
            "the noisy tenant needs an API key of its own",
            code="key_missing",
            param="--neighbour-key-env",
            hint="`galerne keys create --name neighbour`, export it, and name the variable",
        )
    return stage.neighbour_key_env


def _part(summary: Summary, name: str) -> Part:
    return next(part for part in summary.parts if part.name == name)


def _settled_p99_ms(outcome: Outcome, plan: Plan) -> float | None:
    records = outcome.result.records
    quiet = records.filter(traffic=_QUIET)
    return requests.ttft_p99_ms(quiet, begin_s=plan.settle_ratio * plan.duration_s)


def _ratio(after: float | None, before: float | None) -> float | None:
    """What is left of it, or how many times as much it is; `None` where there is nothing to compare
    with."""
    return None if after is None or not before else after / before
