"""`galerne k8s keys`: API keys in the platform's Secret."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from serving.adapters.key_records import utc_now
from serving.adapters.kube.key_secret import KeySecret
from serving.adapters.kube.resources import PODS
from serving.cli.console import err
from serving.cli.k8s_options import EXIT_STATUS, JsonOption, Place, PlatformOptions
from serving.cli.keys import create_key, revoke_key, show_keys
from serving.cli.option_groups import grouped
from serving.errors import ClusterError, ConfigError
from serving.operations.snapshot import TYPE_LABEL, labels_of, name_of, secret_name

_CHANGED_AT = "galerne/keys-changed-at"

app = typer.Typer(
    help="Create, list and revoke API keys in the platform's Secret. Kubelets are asked to bring "
    "it to the pods at once; by themselves they take up to a minute and a half.",
    epilog=f"Example: `galerne k8s keys create ci --expires-in 90d` · {EXIT_STATUS}",
    no_args_is_help=True,
)


@app.command()
@grouped
def create(
    user: Annotated[str, typer.Argument(help="Who will use the key; usage is counted by it.")],
    expires_in: Annotated[
        str | None, typer.Option(help="Life of the key: `90d`, `12h` or `30m`. Without it, no end.")
    ] = None,
    operator: Annotated[
        bool, typer.Option("--operator", help="The key may ask how its requests are routed.")
    ] = False,
    as_json: JsonOption = False,
    *,
    platform: PlatformOptions,
) -> None:
    """Create an API key and print it once. Only a salted hash is stored."""
    place = platform.open()
    create_key(_store(place), user, expires_in=expires_in, operator=operator, as_json=as_json)
    _hurry(place)


@app.command("list")
@grouped
def list_keys(as_json: JsonOption = False, *, platform: PlatformOptions) -> None:
    """List all API keys, revoked and expired ones included. Never shows a key itself."""
    place = platform.open()
    store = _store(place)
    show_keys(store, as_json=as_json, creating="galerne k8s keys create USER")


@app.command()
@grouped
def revoke(
    id_or_name: Annotated[
        str, typer.Argument(help="Id of one key, or a name: then every key of that name.")
    ],
    as_json: JsonOption = False,
    *,
    platform: PlatformOptions,
) -> None:
    """Revoke an API key for good. Revoking it again changes nothing."""
    place = platform.open()
    revoke_key(_store(place), id_or_name, as_json=as_json)
    _hurry(place)


def _store(place: Place) -> KeySecret:
    secret = secret_name(place.snapshot())
    return KeySecret(place.client, namespace=place.namespace, name=secret)


def _hurry(place: Place) -> None:
    """Let kubelets renew the volumes of the platform's pods now: a changed annotation makes them
    look at a pod, and at what it mounts, which they else do once a minute.

    Source: Kubernetes documentation, "Configure a Pod to Use a ConfigMap", mounted ConfigMaps are
    updated automatically.
    """
    change = {"metadata": {"annotations": {_CHANGED_AT: utc_now().isoformat()}}}
    workers = [
        each for each in place.snapshot().pods if labels_of(each).get(TYPE_LABEL) == "worker"
    ]
    try:
        for pod in workers:
            place.client.merge(PODS, name_of(pod), change, namespace=place.namespace)
    except (ClusterError, ConfigError) as error:
        err.print(
            "[yellow]gateways see it within a minute and a half "
            f"({escape(error.message)})[/yellow]",
            soft_wrap=True,
        )
