"""`galerne k8s status` and `galerne k8s wait`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from serving.cli.console import err, out, print_json, progress
from serving.cli.k8s_options import JsonOption, PatientOptions, Place, PlatformOptions
from serving.cli.option_groups import grouped
from serving.errors import ClusterError, TimedOut
from serving.operations.overview import compose_overview
from serving.operations.readiness import Phase, assess
from serving.operations.snapshot import Snapshot
from serving.operations.upgrade_plan import Decision, Step, Wait, decide

_STYLES = {Phase.READY: "green", Phase.PROGRESSING: "yellow"}


@grouped
def status(
    as_json: JsonOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Again after each change, until it is ready.")
    ] = False,
    *,
    platform: PlatformOptions,
) -> None:
    """Show the platform: clusters, pods, Serve's applications, and what it waits for.

    Exit status 0 only if it is ready, 1 if it is not; with `--watch`, 3 if it was not in time.
    """
    place = platform.open()
    if watch:
        _watch(place, as_json=as_json)
        return
    snapshot = place.snapshot()
    _show(snapshot, as_json=as_json)
    if assess(snapshot).phase is not Phase.READY:
        raise typer.Exit(1)


@grouped
def wait(as_json: JsonOption = False, *, platform: PatientOptions) -> None:
    """Wait until the platform is ready, and say what it waits for."""
    place = platform.open()
    with progress("waiting") as tell:
        snapshot = wait_until_ready(place, tell)
    if as_json:
        print_json(compose_overview(snapshot))
    else:
        err.print("[green]ready[/green]")


def wait_until_ready(place: Place, tell: Any, *, after_change: bool = False) -> Snapshot:
    """The platform once it is ready; after a change, once it stays so.

    Raises:
        ClusterError: it fails, or there is none.
        TimedOut: it takes longer than the place's time.
    """
    for decision, snapshot in decisions(place, after_change=after_change):
        match decision.step:
            case Step.WAIT:
                tell(decision.reason)
            case Step.DONE:
                return snapshot
            case Step.FAILED:
                raise ClusterError(
                    decision.reason, code="not_ready", hint="galerne k8s doctor says more"
                )
            case Step.LATE:
                raise TimedOut(
                    decision.reason,
                    code="not_ready_in_time",
                    hint="galerne k8s doctor says more; or wait longer with --timeout",
                )
    raise AssertionError("a platform is followed until it is ready")


def decisions(place: Place, *, after_change: bool) -> Iterator[tuple[Decision, Snapshot]]:
    """What follows from each look at the platform, the last one ending the wait."""
    phase, since_s = None, 0.0
    for waited_s, snapshot in place.follow():
        readiness = assess(snapshot)
        if readiness.phase is not phase:
            phase, since_s = readiness.phase, waited_s
        wait = Wait(waited_s, place.timeout_s, waited_s - since_s, after_change)
        decision = decide(readiness, wait)
        yield decision, snapshot
        if decision.step is not Step.WAIT:
            return


def _watch(place: Place, *, as_json: bool) -> None:
    shown: Mapping[str, Any] | None = None
    for waited_s, snapshot in place.follow():
        document = compose_overview(snapshot)
        if document != shown:
            _show(snapshot, as_json=as_json)
            shown = document
        readiness = assess(snapshot)
        if readiness.phase is Phase.READY:
            return
        if waited_s >= place.timeout_s:
            raise TimedOut(
                f"not ready within {place.timeout_s:g} s: {readiness.reason}",
                code="not_ready_in_time",
                hint="galerne k8s doctor says more",
            )


def _show(snapshot: Snapshot, *, as_json: bool) -> None:
    document = compose_overview(snapshot)
    if as_json:
        print_json(document)
        return
    style = _STYLES.get(Phase(document["phase"]), "red")
    reason = f": {escape(document['reason'])}" if document["reason"] else ""
    out.print(
        f"{document['name']} in {document['namespace']} is [{style}]{document['phase']}[/{style}]"
        f"{reason}",
        soft_wrap=True,
    )
    for title, table in _tables(document):
        if table.row_count:
            out.print(f"\n[bold]{title}[/bold]")
            out.print(table)


def _tables(document: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    groups = _table("CLUSTER", "ROLE", "STATE", "GROUP", "PODS", "MIN", "MAX")
    for cluster in document["clusters"]:
        for group in cluster["groups"] or [{"name": "-"}]:
            counts = [_text(group.get(key)) for key in ("replicas", "min", "max")]
            _add(groups, cluster["name"], cluster["role"], cluster["state"], group["name"], *counts)
    yield "clusters", groups
    pods = _table("POD", "GROUP", "NODE", "GPU", "READY", "RESTARTS", "REASON")
    for pod in document["pods"]:
        reason = f"{pod['reason']}: {pod['message']}" if pod["message"] else pod["reason"]
        _add(pods, pod["name"], pod["group"], pod["node"], pod["gpus"],
             "yes" if pod["ready"] else "no", pod["restarts"], reason)  # fmt: skip
    yield "pods", pods
    applications = _table("APPLICATION", "CLUSTER", "STATUS", "DEPLOYMENT", "STATUS", "MESSAGE")
    for each in document["applications"]:
        for name, found in (each["deployments"] or {"-": {}}).items():
            message = found.get("message") or each["message"]
            _add(applications, each["name"], each["cluster"], each["status"], name,
                 found.get("status", ""), message)  # fmt: skip
    yield "applications", applications


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _add(table: Table, *cells: object) -> None:
    # `Text`, because messages of the cluster may look like rich's markup.
    table.add_row(*(Text(_text(cell)) for cell in cells))


def _text(value: object) -> str:
    return "-" if value is None or value == "" else str(value)
