"""`galerne status`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from serving.adapters import control_client
from serving.adapters.state_paths import StatePaths
from serving.cli.console import out, print_json


def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Show models, replicas, KV-cache use and gateways."""
    document = control_client.ask(StatePaths.from_environment(), "/status")
    if as_json:
        print_json(document)
    else:
        _print_status(document)


def _print_status(document: dict[str, Any]) -> None:
    out.print(f"endpoint {document['endpoint']}/v1")
    table = Table(box=None, header_style="bold")
    for column in ("MODEL", "REPLICA", "STATE", "AGE", "PID", "IN FLIGHT", "KV BLOCKS", "WINDOW"):
        table.add_column(column)
    for model in document["models"]:
        is_known = model["max_model_len"] is not None
        window = str(model["sliding_window"] or "full") if is_known else "-"
        if not model["replicas"]:
            table.add_row(model["id"], "-", model["status"], "-", "-", "-", "-", window)
        for replica in model["replicas"]:
            blocks = f"{_show(replica['kv_blocks_used'])}/{_show(replica['kv_blocks_total'])}"
            load = (_show(replica["in_flight"]), blocks, window)
            table.add_row(model["id"], *_process_cells(replica), *load)
    for gateway in document["gateways"]:
        table.add_row("gateway", *_process_cells(gateway))
    out.print(table)
    for line in _remarks(document):
        out.print(escape(line), soft_wrap=True)


def _remarks(document: Mapping[str, Any]) -> Iterator[str]:
    """What the table has no room for."""
    for model in document["models"]:
        if model["message"]:
            yield f"{model['id']}: {model['message']}"
        if model["scaling"]:
            yield f"{model['id']}: {_scaling_line(model['scaling'])}"
    for gateway in document["gateways"]:
        for problem in gateway["problems"]:
            yield f"gateway {gateway['id']}: {problem}"


def _scaling_line(scaling: Mapping[str, Any]) -> str:
    """What the autoscaler wants and why.

    >>> _scaling_line({"desired": 3, "current": 1, "reason": "busy", "signals_age_s": 4.2})
    '3 replicas wanted, 1 ready: busy (figures 4 s old)'
    """
    age_s = scaling["signals_age_s"]
    age = "no figures" if age_s is None else f"figures {age_s:.0f} s old"
    wanted = f"{scaling['desired']} replica{'s' * (scaling['desired'] != 1)} wanted"
    return f"{wanted}, {scaling['current']} ready: {scaling['reason']} ({age})"


def _process_cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    started = row["started_at"] and datetime.fromisoformat(row["started_at"])
    age = to_age((datetime.now(UTC) - started).total_seconds()) if started else "-"
    return row["id"], row["state"], age, _show(row["pid"])


def to_age(seconds: float) -> str:
    """A duration in its largest unit, as a person says it.

    >>> to_age(12.7), to_age(150), to_age(86_400)
    ('12 s', '2 min', '24 h')
    """
    if seconds < 120:
        return f"{max(seconds, 0) // 1:.0f} s"
    return f"{seconds // 60:.0f} min" if seconds < 7200 else f"{seconds // 3600:.0f} h"


def _show(value: object) -> str:
    return "-" if value is None else str(value)
