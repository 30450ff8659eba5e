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
    from loadtest.verdict.summary import Summary
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

    The rate is doubled until the SLO is not met, then narrowed down; both ends are repeated with
    other seeds, so that neither a lucky run nor an unlucky one decides. The workload says how
    requests come and what they are; its own rate is scaled. Of conversations a rate counts
    sessions, which send more requests; goodput counts requests.

    **Examples**

    `galerne load capacity --url http://127.0.0.1:8000 --slo slo.yaml --duration 30`

    `galerne load capacity --url $URL --trace conversation.jsonl --limit 500 --slo slo.yaml --json`
    """
    from loadtest.verdict.capacity import CapacitySearch
    from loadtest.verdict.slo import read_slo
    from serving.cli.load_run import EXIT_INVALID, new_results

    limits = read_slo(slo)
    with new_results(out_folder) as folder:
        plan = replace(make_plan(sending, asked), is_last=False)
        asks = CapacitySearch(
            search.start_rps,
            search.max_rps,
            precision_ratio=search.precision,
            repeats=search.repeats,
            unit=plan.workload.unit,
        )
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
    is_invalid = bool(found.probes) and found.probes[-1].verdict == "invalid"
    sys.exit(EXIT_INVALID if is_invalid else 1)


def _search(asks: CapacitySearch, plan: Plan, limits: Slo, folder: Path) -> None:
    """The search is over; its probes are in the folder.

    Raises:
        ConfigError: already the first probe would tell nothing.
    """
    from loadtest.verdict.checks import early_ends
    from serving.cli.load_capacity_probe import doubt, probe_at, too_small

    for number in itertools.count(1):
        rate = asks.next_rate()
        if rate is None:
            return
        probe = probe_at(plan, rate, num_tried=asks.num_tried(rate))
        if (refusal := too_small(probe)) is not None:
            if number == 1:
                raise refusal
            asks.end(refusal.message)
            return
        err.print(f"probe {number}: {rate:.4g} {plan.workload.unit}/s", highlight=False)
        summary = _performed(probe, limits, folder / f"probe-{number:02d}")
        if summary.verdict == "pass" and (doubted := doubt(probe, summary)) is not None:
            # Counted as held, it could be any multiple of the capacity.
            say(f"  {doubted}")
            asks.end(f"at {rate:.4g} {plan.workload.unit}/s {doubted}")
            return
        overall = summary.overall
        asks.tell(
            rate,
            summary.verdict,
            offered_rps=overall.offered_rps,
            goodput_rps=overall.goodput_rps,
            notes=early_ends(overall),
        )


def _performed(planned: Plan, limits: Slo, folder: Path) -> Summary:
    """What a probe came to, with its figures in the folder; one that is not whole ends it all."""
    from serving.cli.load_run import print_problem

    probe = _valid(planned, limits)
    print_problem(probe)
    probe.write_figures(folder)
    if not probe.result.about.is_whole:
        sys.exit(probe.exit_code)
    say(escape(f"  {probe.summary.verdict}: {'; '.join(probe.summary.reasons)}"))
    return probe.summary


def _write(found: Capacity, folder: Path, *, title: str) -> None:
    import msgspec

    from loadtest.report.files import write_capacity
    from loadtest.whole_file import whole_file
    from serving.cli.load_run import kept

    with kept(folder):
        with whole_file(folder / "capacity.json") as path:
            path.write_bytes(msgspec.json.encode(found))
        page = write_capacity(folder, found, title=title).page
    say(f"[dim]report  {escape(str(page))}[/dim]")


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
    if found.rate_rps is not None and goodput is not None:
        out.print(
            f"goodput {goodput.mean:.4g} of {found.offered_at(found.rate_rps):.4g} requests/s "
            f"(95 %: {goodput.low:.4g} to {goodput.high:.4g})",
            highlight=False,
        )
