"""The classic questions of load testing, each answered by one command.

    python -m loadtest.scenarios overload
    python -m loadtest.scenarios baseline --url http://127.0.0.1:8000 --model m --capacity 12

Without `--url` a scenario starts a simulated platform of its own. The last line on stdout is the
verdict, as JSON with `--json`; reports and pictures are in `--out`. Exit status: 0 pass, 1 fail,
2 wrong usage, 4 the generator was the bottleneck, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from loadtest.generator.messages import KEY_VARIABLE
from loadtest.generator.target import Target
from loadtest.machine import allow_many_connections
from loadtest.peers.base import UnavailableError
from loadtest.peers.galerne import Platform
from loadtest.scenarios import baseline, failover, neighbour, overload, scaleout, soak, spike
from loadtest.scenarios.finding import Finding
from loadtest.scenarios.stage import Simulated, Stage, simulated
from loadtest.verdict.slo import RequestLimits, Slo, read_slo
from loadtest.whole_file import whole_file
from serving.adapters.state_paths import StatePaths
from serving.cli.console import EXIT_FAILURE, err, report
from serving.cli.load_run import EXIT_INTERRUPTED, results_folder
from serving.errors import ConfigError, ServingError
from serving.settings.scaling import SloSettings

_PROMISED = Slo(request=RequestLimits(ttft_ms=1000 * SloSettings().ttft_s))
"""What a model's settings promise unless they say otherwise."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A question: its plan with the defaults, and what answers it on a stage."""

    plan: Any
    run: Callable[[Stage, Any, Path], Finding]
    asks: str


SCENARIOS: Mapping[str, Scenario] = {
    module.NAME: Scenario(module.Plan(), module.run, (module.__doc__ or "").splitlines()[0])
    for module in (baseline, soak, spike, overload, neighbour, failover)
}
"""By name; `scaleout` stands beside them, because it needs one platform after another."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    raw = argparse.RawDescriptionHelpFormatter
    root = argparse.ArgumentParser(prog="scenarios", description=__doc__, formatter_class=raw)
    names = root.add_subparsers(dest="scenario", required=True)
    for name, scenario in SCENARIOS.items():
        one = names.add_parser(name, help=scenario.asks)
        _endpoint_options(one)
        if hasattr(scenario.plan, "duration_s"):
            lasts_s = scenario.plan.duration_s
            one.add_argument("--duration", type=float, metavar="SECONDS", default=lasts_s,
                             help="%(default)s by default")  # fmt: skip
        _common_options(one)
    one = names.add_parser(scaleout.NAME, help=(scaleout.__doc__ or "").splitlines()[0])
    _common_options(one)
    return root


def _endpoint_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("--url", help="endpoint to load instead of a simulated platform")
    one.add_argument("--model", help="model to ask, with --url")
    one.add_argument("--capacity", type=float, metavar="RPS",
                     help="about what it serves within the SLO, with --url; `galerne load "
                     "capacity` finds it")  # fmt: skip
    one.add_argument("--key-env", metavar="NAME", default=KEY_VARIABLE,
                     help="variable with the API key, %(default)s by default")  # fmt: skip
    one.add_argument("--neighbour-key-env", metavar="NAME",
                     help="variable with the API key of another tenant")  # fmt: skip
    one.add_argument("--prompt-tokens", default="512", help="with --url; %(default)s by default")
    one.add_argument("--output-tokens", default="128", help="with --url; %(default)s by default")
    one.add_argument(
        "--slo",
        type=Path,
        metavar="FILE",
        help="SLO as YAML, with --url; without one, a TTFT within 2 s",
    )
    one.add_argument("--set", metavar="PATH=VALUE", action="append", default=[], dest="settings",
                     help="setting of the simulated platform, as of `galerne up`")  # fmt: skip


def _common_options(one: argparse.ArgumentParser) -> None:
    one.add_argument("--out", type=Path, metavar="DIR", help="folder for reports, empty or new")
    one.add_argument("--json", action="store_true", help="print the finding as one line of JSON")


def main() -> None:
    """Answer, print, and end with the verdict's exit code."""
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    allow_many_connections()
    try:
        folder = results_folder(options.out)
        finding = _found(options, folder)
    except ServingError as error:
        sys.exit(report(error))
    except UnavailableError as error:
        err.print(f"[bold red]error[/bold red] {error}", markup=True, soft_wrap=True)
        sys.exit(EXIT_FAILURE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    with whole_file(folder / "finding.json") as path:
        path.write_text(json.dumps(finding.line(), indent=2) + "\n")
    _show(finding, folder, as_json=options.json)
    sys.exit(finding.exit_code)


def _interrupt(*_: object) -> None:
    """End as after Ctrl-C, so that the platform is stopped."""
    raise KeyboardInterrupt


def _found(options: argparse.Namespace, folder: Path) -> Finding:
    if options.scenario == scaleout.NAME:
        return scaleout.run(scaleout.Plan(), folder)
    scenario = SCENARIOS[options.scenario]
    plan = scenario.plan
    if "duration" in options:
        plan = replace(plan, duration_s=options.duration)
    with _stage(options) as stage:
        return scenario.run(stage, plan, folder)


@contextmanager
def _stage(options: argparse.Namespace) -> Iterator[Stage]:
    if options.url is not None:
        yield named_stage(options)
        return
    err.print("starting a simulated platform")
    with simulated(Simulated(settings=options.settings)) as stage:
        yield stage


def named_stage(options: argparse.Namespace) -> Stage:
    """The endpoint that the options name.

    Raises:
        ConfigError: they leave something out, or the SLO cannot be read.
    """
    for name in ("model", "capacity"):
        if getattr(options, name) is None:
            raise _bad_option(f"--{name}", f"--{name} is required with --url")
    if not 0 < options.capacity < math.inf:
        raise _bad_option("--capacity", f"--capacity must be above 0, not {options.capacity:g}")
    return Stage(
        Target.parse(options.url),
        model=options.model,
        key=os.environ.get(options.key_env),
        slo=read_slo(options.slo) if options.slo else _PROMISED,
        capacity_rps=options.capacity,
        request={"prompt_tokens": options.prompt_tokens, "output_tokens": options.output_tokens},
        neighbour_key_env=options.neighbour_key_env,
        commands=_local_platform(options.url),
    )


def _bad_option(option: str, problem: str) -> ConfigError:
    return ConfigError(problem, code="bad_option", param=option)


def _local_platform(url: str) -> Platform | None:
    """The platform of this machine's state folder, if it is that one."""
    paths = StatePaths.from_environment()
    if not paths.run_file.exists():
        return None
    platform = Platform(paths.state_dir)
    try:
        endpoint = platform.status()["endpoint"]
    except UnavailableError:
        return None
    return platform if Target.parse(endpoint) == Target.parse(url) else None


def _show(finding: Finding, folder: Path, *, as_json: bool) -> None:
    line = finding.line()
    if as_json:
        print(json.dumps(line), flush=True)
    else:
        _print_figures(line)
        print(f"{finding.scenario}: {finding.verdict}: {'; '.join(finding.reasons)}", flush=True)
    err.print(f"[dim]report  {escape(str(folder))}[/dim]", soft_wrap=True)


def _print_figures(line: Mapping[str, Any]) -> None:
    names: Sequence[str] = [name for name in line if name not in ("scenario", "verdict", "reasons")]
    for name in names:
        value = line[name]
        shown = json.dumps(value) if isinstance(value, dict) else value
        print(f"  {name}: {'-' if shown is None else shown}")


if __name__ == "__main__":
    main()
