"""Options of `galerne load` on where to and how it sends, and the load test that all lead to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.load_workload_options import Asked
from serving.errors import ConfigError

if TYPE_CHECKING:
    from loadtest.generator.run import Listen, Plan

_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Sending:
    """Where to, and how it is sent."""

    url: Annotated[
        str,
        typer.Option(
            envvar="GALERNE_URL", help="The endpoint, with or without /v1.", show_default=False
        ),
    ]
    key: Annotated[
        str | None,
        typer.Option(
            envvar="GALERNE_API_KEY",
            help="API key. Better in the environment: arguments show in the list of processes.",
            show_default=False,
        ),
    ] = None
    workers: Annotated[
        int, typer.Option(min=1, max=1000, help="Processes that send; one does for most.")
    ] = 1
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Wait there for --workers of `galerne load worker` instead of starting them. They "
            "show the secret in GALERNE_LOAD_TOKEN.",
            show_default=False,
        ),
    ] = None
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds for one request, to its end.")
    ] = 300.0
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A model's tokenizer.json or its folder, for prompts of exactly so many tokens.",
            show_default=False,
        ),
    ] = None
    ca_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Authorities to trust instead of the system's.", show_default=False
        ),
    ] = None


def make_plan(sending: Sending, asked: Asked) -> Plan:
    """The load test that the options describe.

    Raises:
        ConfigError: options that do not go together, or a document that is no workload.
    """
    from loadtest.generator import preflight
    from loadtest.generator.keys import to_secret
    from loadtest.generator.run import Plan
    from loadtest.generator.target import Target

    target = Target.parse(sending.url, sending.ca_file)
    key = None if sending.key is None else to_secret(sending.key, "--key") or None

    def only_model() -> str:
        return asyncio.run(preflight.only_model(target, key, asked.dialect or "chat"))

    return Plan(
        target,
        asked.to_workload(only_model),
        key=key,
        timeout_s=sending.timeout_s,
        num_workers=sending.workers,
        tokenizer=None if sending.tokenizer is None else sending.tokenizer.absolute(),
        listen=_listen(sending.listen),
    )


def _listen(address: str | None) -> Listen | None:
    from loadtest.generator.keys import secret_in
    from loadtest.generator.messages import TOKEN_VARIABLE
    from loadtest.generator.run import Listen

    if address is None:
        return None
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= _MAX_PORT:
        raise ConfigError(
            f"{address!r} is not HOST:PORT, a port from 1 to {_MAX_PORT}",
            code="bad_option",
            param="--listen",
        )
    if (token := secret_in(TOKEN_VARIABLE)) is None:
        raise ConfigError(
            f"{TOKEN_VARIABLE} is not set",
            code="token_missing",
            param="--listen",
            hint=f"export {TOKEN_VARIABLE}=$(openssl rand -hex 32), here and for the workers",
        )
    return Listen(host.strip("[]"), int(port), token)
