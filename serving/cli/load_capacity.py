"""`galerne load capacity`: the highest rate that still meets an SLO."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from serving.cli.console import err, out, say
from serving.cli.load_result_options import LastLineOption, OutOption, Search
from serving.cli.load_sending_options import Sending, make_plan
from serving.cli.load_workload_options import Asked
from serving.cli.option_groups import grouped

if TYPE_CHECKING:
    from loadtest.generator.run import Plan
    from loadtest.verdict.capacity import Capacity, CapacitySearch
    from loadtest.verdict.slo import Slo
    from serving.cli.load_run import Outcome

_TRIES = 3
"""Of one rate: a moment in which something else held up the generator shall not end the search."""


@grouped
def capacity(
    sending: Sending,
    asked: Asked,
    slo: Annotated[Path, typer.Option(metavar="FILE", help="SLO as YAML.", show_default=False)],
    search: Search,
    out_folder: OutOption = None,
    as_json: LastLineOption = False,
) -> None:
    """Find the highest rate that still meets an SLO.

    The rate is doubled until the SLO is not met, then narrowed down; both ends are repeated, so
    that neither a lucky run nor an unlucky one decides. The workload says how requests come and
    what they are; its own rate is scaled. A rate counts sessions, so conversations of several turns
    send more requests.

    **Examples**

    `galerne load capacity --url http://127.0.0.1:8000 --slo slo.yaml --duration 30`

    `galerne load capacity --url $URL --trace conversation.jsonl --limit 500 --slo slo.yaml --json`
    """
    from loadtest.verdict.capacity import CapacitySearch
    from loadtest.verdict.slo import read_slo
    from serving.cli.load_run import EXIT_INVALID, new_results

    limits = read_slo(slo)
    asks = CapacitySearch(
        search.start_rps, search.max_rps, precision_ratio=search.precision, repeats=search.repeats
    )
    with new_results(out_folder) as folder:
        plan = replace(make_plan(sending, asked), is_last=False)
        try:
            _search(asks, plan, limits, folder)
        finally:
            # Whatever ended the search, what is known may have taken hours.
            found = asks.result()
            if found.probes:
                _write(found, folder, title=f"Capacity of {plan.target.url}")
    _print(found, as_json=as_json)
    if found.outcome in ("found", "at least"):
        return
    sys.exit(EXIT_INVALID if found.probes[-1].verdict == "invalid" else 1)


def _search(asks: CapacitySearch, plan: Plan, limits: Slo, folder: Path) -> None:
    """The search is over; its probes are in the folder."""
    from serving.cli.load_run import print_problem

    for number in itertools.count(1):
        rate_rps = asks.next_rate()
        if rate_rps is None:
            return
        err.print(f"probe {number}: {rate_rps:.4g}/s")
        probe = _valid(replace(plan, rate_scale=plan.workload.scale_to(rate_rps)), limits)
        print_problem(probe)
        probe.write_figures(folder / f"probe-{number:02d}")
        if not probe.result.about.is_whole:
            sys.exit(probe.exit_code)
        summary = probe.summary
        say(escape(f"  {summary.verdict}: {'; '.join(summary.reasons)}"))
        asks.tell(rate_rps, summary.verdict, summary.overall.goodput_rps)


def _write(found: Capacity, folder: Path, *, title: str) -> None:
    import msgspec

    from loadtest.report.files import write_capacity
    from serving.cli.load_run import kept

    with kept(folder):
        (folder / "capacity.json").write_bytes(msgspec.json.encode(found))
        page = write_capacity(folder, found, title=title).page
    say(f"[dim]report  {page}[/dim]")


def _valid(plan: Plan, limits: Slo) -> Outcome:
    """A run that the generator was not the bottleneck of, unless none of some is."""
    from serving.cli.load_run import perform

    for _ in range(_TRIES):
        probe = perform(plan, limits)
        if probe.summary.verdict != "invalid" or not probe.result.about.is_whole:
            break
    return probe


def _print(found: Capacity, *, as_json: bool) -> None:
    import msgspec

    if as_json:
        print(msgspec.json.encode(found).decode(), flush=True)
        return
    goodput = found.goodput_rps
    out.print(f"[bold]{found.outcome}[/bold]: {found.reason}", highlight=False)
    if goodput is not None:
        out.print(
            f"goodput {goodput.mean:.4g}/s (95 %: {goodput.low:.4g} to {goodput.high:.4g})",
            highlight=False,
        )
