"""`galerne route`: how the running platform would route a request, and why."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from serving.adapters import control_client
from serving.adapters.state_paths import StatePaths
from serving.cli.console import out, print_json


def route(
    model: Annotated[str, typer.Option("--model", "-m", help="A served name.")],
    prompt: Annotated[str, typer.Option("--prompt", help="What a user would say.")],
    key: Annotated[
        str,
        typer.Option(
            "--key",
            metavar="NAME",
            help="Name of an API key: prompts of others are not among its cached ones.",
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document.")] = False,
) -> None:
    """Show where a chat request would go now, and what speaks for each replica.

    Nothing is sent to an engine. HIT is how much of the prompt the replica is expected to have
    cached, in tokens; a policy that does not ask has no scores by name.
    """
    request = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    question = {"path": "/v1/chat/completions", "tenant": key, "request": request}
    found = control_client.ask(StatePaths.from_environment(), "/route", question)
    if as_json:
        print_json(found)
        return
    out.print(f"{found['replica'] or 'none'}: {found['reason']}; {found['prompt_tokens']} tokens")
    out.print(_table(found["candidates"]))


def _table(candidates: list[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for row in candidates for name in row["scores"]))
    table = Table(box=None, header_style="bold")
    for title in ("REPLICA", "SCORE", "HIT", *(name.upper() for name in names), ""):
        table.add_column(title, justify="left" if title in ("REPLICA", "") else "right")
    for row in candidates:
        scores = [f"{row['scores'][name]:.2f}" if row["scores"] else "" for name in names]
        table.add_row(
            row["replica"],
            "" if row["obstacle"] else f"{row['score']:.2f}",
            str(row["predicted_hit_tokens"]),
            *scores,
            row["obstacle"] or "",
        )
    return table
