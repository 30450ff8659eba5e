"""`galerne k8s keys`: API keys in the platform's Secret."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.adapters.kube.key_secret import KeySecret
from serving.cli.k8s_options import (
    DEFAULT_NAME,
    EXIT_STATUS,
    SHORT_TIMEOUT_S,
    ContextOption,
    JsonOption,
    NameOption,
    NamespaceOption,
    TimeoutOption,
    open_place,
)
from serving.cli.keys import create_key, revoke_key, show_keys
from serving.operations.snapshot import secret_name

app = typer.Typer(
    help="Create, list and revoke API keys in the platform's Secret. Gateways follow within 5 "
    "seconds of the kubelet, which brings a changed Secret to its pods within a minute or two.",
    epilog=f"Example: `galerne k8s keys create ci --expires-in 90d` · {EXIT_STATUS}",
    no_args_is_help=True,
)


@app.command()
def create(  # noqa: PLR0913 (one parameter per command-line option)
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(help="Who will use the key; usage is counted by it.")],
    expires_in: Annotated[
        str | None, typer.Option(help="Life of the key: `90d`, `12h` or `30m`. Without it, no end.")
    ] = None,
    operator: Annotated[
        bool, typer.Option("--operator", help="The key may ask how its requests are routed.")
    ] = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    name: NameOption = DEFAULT_NAME,
    as_json: JsonOption = False,
    timeout: TimeoutOption = SHORT_TIMEOUT_S,
) -> None:
    """Create an API key and print it once. Only a salted hash is stored."""
    store = _store(ctx, namespace, context, name, timeout)
    create_key(store, user, expires_in=expires_in, operator=operator, as_json=as_json)


@app.command("list")
def list_keys(
    ctx: typer.Context,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    name: NameOption = DEFAULT_NAME,
    as_json: JsonOption = False,
    timeout: TimeoutOption = SHORT_TIMEOUT_S,
) -> None:
    """List all API keys, revoked and expired ones included. Never shows a key itself."""
    store = _store(ctx, namespace, context, name, timeout)
    show_keys(store, as_json=as_json, creating="galerne k8s keys create USER")


@app.command()
def revoke(  # noqa: PLR0913 (one parameter per command-line option)
    ctx: typer.Context,
    id_or_name: Annotated[
        str, typer.Argument(help="Id of one key, or a name: then every key of that name.")
    ],
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    name: NameOption = DEFAULT_NAME,
    as_json: JsonOption = False,
    timeout: TimeoutOption = SHORT_TIMEOUT_S,
) -> None:
    """Revoke an API key for good. Revoking it again changes nothing."""
    store = _store(ctx, namespace, context, name, timeout)
    revoke_key(store, id_or_name, as_json=as_json)


def _store(
    ctx: typer.Context, namespace: str | None, context: str | None, name: str, timeout_s: float
) -> KeySecret:
    place = open_place(ctx, namespace, context, name, timeout_s)
    secret = secret_name(place.snapshot())
    return KeySecret(place.client, namespace=place.namespace, name=secret)
