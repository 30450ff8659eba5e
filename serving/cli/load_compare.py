"""`galerne load compare` and `galerne load ab`: is B worse than A?"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from serving.cli.console import EXIT_FAILURE, err, out
from serving.cli.load_result_options import Judging, LastLineOption, OutOption
from serving.cli.load_sending_options import Sending, make_plan
from serving.cli.load_workload_options import Asked
from serving.cli.option_groups import grouped
from serving.errors import ConfigError

if TYPE_CHECKING:
    from loadtest.generator.run import Plan
    from loadtest.verdict.compare import Comparison, Side
    from loadtest.verdict.gate import Gate
    from serving.cli.load_run import Outcome


@grouped
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of another.", show_default=False)],
    judging: Judging = Judging(),  # noqa: B008 - frozen
    out_folder: OutOption = None,
    as_json: LastLineOption = False,
) -> None:
    """Compare two results, and fail if B is worse than A for certain.

    Runs of the same workload and seed are compared request by request. Each figure has an interval;
    it fails the gate only with the whole of it, so a build does not go red by chance.

    **Examples**

    `galerne load compare results/before results/after`

    `galerne load compare main branch --max-regression 1.1 --tolerance ttft_ms.p99=1.3 --json`
    """
    from serving.cli.load_run import new_results

    sides = _read(a), _read(b)
    with nullcontext() if out_folder is None else new_results(out_folder) as folder:
        code = _judge(*sides, judging, folder=folder, as_json=as_json)
    sys.exit(code)


@grouped
def ab(
    sending: Sending,
    other: Annotated[
        str, typer.Option("--other", metavar="URL", help="Endpoint B.", show_default=False)
    ],
    asked: Asked,
    judging: Judging = Judging(),  # noqa: B008 - frozen
    rounds: Annotated[
        int, typer.Option(min=1, max=50, help="Runs of each; alternate, so that a drift hits both.")
    ] = 2,
    out_folder: OutOption = None,
) -> None:
    """Send the same load to two endpoints in turn, and fail if B is worse than A for certain.

    **Example**

    `galerne load ab --url http://old:8000 --other http://new:8000 --arrivals poisson:5 --rounds 3`
    """
    from loadtest.generator.target import Target
    from loadtest.verdict.rounds import joined
    from serving.cli.load_run import new_results

    with new_results(out_folder) as folder:
        plan_a = replace(make_plan(sending, asked), title="A")
        plan_b = replace(plan_a, target=Target.parse(other, sending.ca_file), title="B")
        runs: dict[str, list[Outcome]] = {"A": [], "B": []}
        for number in range(rounds):
            # A B, B A, …: what a later run gains or loses evens out.
            pair = (plan_a, plan_b) if number % 2 == 0 else (plan_b, plan_a)
            for plan in pair:
                err.print(f"round {number + 1} of {rounds}: {plan.title} {plan.target.url}")
                is_last = number == rounds - 1 and plan is pair[-1]
                name = f"{plan.title.lower()}-{number + 1}"
                runs[plan.title].append(_run(replace(plan, is_last=is_last), folder / name))
        a, b = (joined([_side(run) for run in runs[title]]) for title in ("A", "B"))
        code = _judge(a, b, judging, folder=folder, as_json=False)
    sys.exit(code)


def _run(plan: Plan, folder: Path) -> Outcome:
    """A run that came to its end; one that did not ends the command."""
    from serving.cli.load_run import perform, print_problem

    run = perform(plan, None)
    print_problem(run)
    run.write_figures(folder)
    if not run.result.about.is_whole:
        sys.exit(run.exit_code)
    return run


def _side(run: Outcome) -> Side:
    from loadtest.verdict.compare import Side

    return Side(run.result.about, run.result.records)


def _read(folder: Path) -> Side:
    from loadtest import records
    from loadtest.about import About
    from loadtest.verdict.compare import Side

    try:
        about = About.read(folder)
        return Side(
            about.model_copy(update={"title": about.title or str(folder)}), records.read(folder)
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} holds no result of a load test",
            code="result_unreadable",
            hint="name what `galerne load run --out` of this version was given",
        ) from error


def _judge(a: Side, b: Side, judging: Judging, *, folder: Path | None, as_json: bool) -> int:
    """Show the comparison; the exit code it deserves."""
    import msgspec

    from loadtest.report.files import write_comparison
    from loadtest.verdict.compare import compare as compare_sides
    from loadtest.verdict.gate import gate
    from loadtest.verdict.slo import Slo
    from serving.cli.load_run import kept

    slo = None if a.about.slo is None else Slo.model_validate(a.about.slo)
    comparison = compare_sides(a, b, slo=slo)
    verdict = gate(
        comparison,
        max_regression_ratio=judging.max_regression,
        tolerances=judging.to_tolerances(),
    )
    if as_json:
        document = {"comparison": comparison, "gate": verdict}
        print(msgspec.json.encode(document).decode(), flush=True)
    else:
        _print(comparison, verdict)
    if folder is not None:
        with kept(folder):
            page = write_comparison(folder, a, b, comparison).page
        err.print(f"[dim]report  {escape(str(page))}[/dim]", soft_wrap=True)
    return 0 if verdict.passed else EXIT_FAILURE


def _print(comparison: Comparison, verdict: Gate) -> None:
    if comparison.unpaired:
        err.print(
            f"not compared request by request: {comparison.unpaired}", markup=False, soft_wrap=True
        )
    for note in comparison.notes:
        err.print(note, markup=False, soft_wrap=True)
    for effect in comparison.effects:
        out.print(effect.in_words(), markup=False, soft_wrap=True)
    for suspicion in verdict.suspicions:
        err.print(f"suspected, not certain: {suspicion.in_words()}", markup=False, soft_wrap=True)
    word, colour = ("pass", "green") if verdict.passed else ("fail", "red")
    err.print(f"gate [{colour}]{word}[/]")
    for reason in verdict.reasons:
        err.print(f"  {reason}", markup=False, soft_wrap=True)
