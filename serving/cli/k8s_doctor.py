"""`galerne k8s doctor`: what is wrong, why, and how to mend it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.markup import escape

from serving.adapters.kube.platform_reader import read_survey
from serving.adapters.prometheus_query import active_targets
from serving.cli.console import err, out, print_json
from serving.cli.k8s_options import JsonOption, PlatformOptions
from serving.cli.option_groups import grouped
from serving.operations.findings import diagnose
from serving.operations.survey import Severity


@grouped
def doctor(
    as_json: JsonOption = False,
    prometheus: Annotated[
        str, typer.Option(help="A Prometheus that shall scrape the platform: then it is asked too.")
    ] = "",
    *,
    platform: PlatformOptions,
) -> None:
    """Look for what keeps the platform from running, and say how to mend it. Changes nothing.

    Exit status 1 if something does, 0 with warnings only.
    """
    place = platform.open()
    survey = read_survey(place.client, place.namespace, place.name)
    if prometheus:
        survey = dataclasses.replace(survey, targets=active_targets(prometheus))
    findings = diagnose(survey)
    if as_json:
        print_json(
            {
                "findings": [dataclasses.asdict(each) for each in findings],
                "unread": sorted(survey.unread),
            }
        )
    else:
        for each in findings:
            style = "bold red" if each.severity is Severity.ERROR else "yellow"
            out.print(f"[{style}]{each.severity}[/{style}] {escape(each.what)}", soft_wrap=True)
            out.print(f"  why   {each.why}", markup=False, soft_wrap=True)
            out.print(f"  mend  {each.mend}", markup=False, soft_wrap=True)
        if survey.unread:
            err.print(f"[dim]not looked at, for want of rights: {', '.join(sorted(survey.unread))}"
                      "[/dim]", soft_wrap=True)  # fmt: skip
        if not findings:
            err.print("[green]nothing found[/green]")
    if any(each.severity is Severity.ERROR for each in findings):
        raise typer.Exit(1)
