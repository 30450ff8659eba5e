"""`galerne keys`: create, list and revoke API keys."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from serving.adapters.key_records import KeyStore, utc_now
from serving.adapters.key_store import KeyFile
from serving.adapters.state_paths import StatePaths
from serving.cli.console import err, out, print_json
from serving.errors import ConfigError
from serving.tenancy.access import KeyRecord, KeyState

app = typer.Typer(
    help="Create, list and revoke API keys. Running gateways follow within 5 seconds.",
    epilog="Example: `galerne keys create --name ci --expires-in 90d`",
    no_args_is_help=True,
)

# Six digits of days stay within the years datetime can hold.
_DURATION = re.compile(r"([1-9][0-9]{0,5})([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}
_STYLES = {KeyState.ACTIVE: "green", KeyState.EXPIRED: "yellow", KeyState.REVOKED: "red"}

_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@app.command(epilog="Example: `galerne keys create --name ci --expires-in 90d`")
def create(
    name: Annotated[
        str, typer.Option(help="Who will use the key: 1 to 64 characters. Usage is counted by it.")
    ],
    expires_in: Annotated[
        str | None,
        typer.Option(help="Life of the key: `90d`, `12h` or `30m`. Without it, no end."),
    ] = None,
    operator: Annotated[
        bool,
        typer.Option(
            "--operator",
            help="The key may ask with `x-galerne-explain: 1` how a request is routed.",
        ),
    ] = False,
    as_json: _Json = False,
) -> None:
    """Create an API key and print it once. Only a salted hash is stored."""
    create_key(_key_file(), name, expires_in=expires_in, operator=operator, as_json=as_json)


@app.command("list", epilog="Example: `galerne keys list --json`")
def list_keys(as_json: _Json = False) -> None:
    """List all API keys, revoked and expired ones included. Never shows a key itself."""
    show_keys(_key_file(), as_json=as_json)


@app.command(epilog="Examples: `galerne keys revoke ci`, `galerne keys revoke k3v5xq2mzr7a`")
def revoke(
    id_or_name: Annotated[
        str, typer.Argument(help="Id of one key, or a name: then every key of that name.")
    ],
    as_json: _Json = False,
) -> None:
    """Revoke an API key for good. Revoking it again changes nothing."""
    revoke_key(_key_file(), id_or_name, as_json=as_json)


def create_key(
    store: KeyStore, name: str, *, expires_in: str | None, operator: bool, as_json: bool
) -> None:
    """Create a key in a store and print it once."""
    expires_at = utc_now() + _parse_duration(expires_in) if expires_in is not None else None
    key, record = store.create(name, expires_at=expires_at, is_operator=operator)
    if as_json:
        public = ("id", "name", "created_at", "expires_at")
        shown = _to_public(record)
        print_json({"key": key} | {field: shown[field] for field in public})
        return
    out.print(key, markup=False, soft_wrap=True)
    err.print(f"[dim]id {record.id}, expires {_to_text(record.expires_at)}[/dim]")
    err.print("[yellow]Store the key now: it cannot be shown again.[/yellow]")


def show_keys(
    store: KeyStore, *, as_json: bool, creating: str = "galerne keys create --name NAME"
) -> None:
    """Print the keys of a store; `creating` is the command that makes one."""
    records = store.list()
    if as_json:
        print_json([_to_public(record) for record in records])
    elif records:
        out.print(_to_table(records))
    else:
        err.print(f"No API keys yet. Create one with: {creating}")


def revoke_key(store: KeyStore, id_or_name: str, *, as_json: bool) -> None:
    """Revoke a key of a store and say which."""
    record = store.revoke(id_or_name)
    if as_json:
        print_json(_to_public(record))
    else:
        err.print(f"Revoked {record.name} ({record.id}).", markup=False, emoji=False)


def _key_file() -> KeyFile:
    return KeyFile(StatePaths.from_environment().key_file)


def _parse_duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"--expires-in {text!r} is not a duration",
            code="option_invalid",
            hint="a whole number and a unit: 90d, 12h or 30m",
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _to_public(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state(utc_now()).value,
        "operator": record.is_operator,
        "created_at": record.created_at.isoformat(),
        "expires_at": record.expires_at.isoformat() if record.expires_at else None,
        "revoked_at": record.revoked_at.isoformat() if record.revoked_at else None,
    }


def _to_table(records: tuple[KeyRecord, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True)
    table.add_column("name", overflow="fold")
    for heading in ("created", "expires", "role", "state"):
        table.add_column(heading, no_wrap=True)
    for record in records:
        state = record.state(utc_now())
        created, expires = _to_text(record.created_at), _to_text(record.expires_at)
        # `Text`, because a name may look like rich's markup or an emoji code.
        name, styled = Text(record.name), Text(state, style=_STYLES[state])
        role = "operator" if record.is_operator else "client"
        table.add_row(record.id, name, created, expires, role, styled)
    return table


def _to_text(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else "never"
