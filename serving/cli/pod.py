"""`galerne pod`: what the containers of a Kubernetes pod run beside Ray."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Annotated

import typer

from serving.adapters.local_requests import requests_held
from serving.adapters.secrets_file import read_secret
from serving.adapters.state_paths import StatePaths
from serving.cli.console import err, progress
from serving.planner.serve_config import PORT

app = typer.Typer(
    no_args_is_help=True,
    help="What the containers of a Kubernetes pod run beside Ray.",
    rich_markup_mode="markdown",
)

_POLL_S = 1.0
_UNKNOWN_S = 15.0
"""For so long nobody may say where this pod's processes are; then there is nothing to wait for."""


@app.callback()
def _group() -> None:
    """Keeps `drain` a command of its own while it is the only one."""


@app.command(epilog="Example, as a container's preStop hook: `galerne pod drain --timeout 600`")
def drain(
    timeout: Annotated[
        float, typer.Option(min=0, help="Longest wait in seconds; what runs then is cut.")
    ],
    at_least: Annotated[
        float,
        typer.Option(
            min=0, help="Shortest wait: until nobody sends new requests to a pod that ends."
        ),
    ] = 5.0,
    endpoint: Annotated[
        str, typer.Option(help="Any endpoint of the platform.")
    ] = f"http://127.0.0.1:{PORT}",
) -> None:
    """Wait until this pod's gateways and engines have finished their requests.

    Kubernetes tells gateways that the pod ends, and they send it nothing new. Its address is
    `GALERNE_POD_IP`, else its host name's.
    """
    host = os.environ.get("GALERNE_POD_IP") or socket.gethostbyname(socket.gethostname())
    token = read_secret(StatePaths.from_environment().metrics_token_file)
    with progress("draining") as tell:
        left = wait_until_idle(
            lambda: asyncio.run(requests_held(endpoint, host, metrics_token=token)),
            tell,
            timeout_s=timeout,
            at_least_s=at_least,
        )
    err.print("drained" if not left else f"{left} requests are left")


def wait_until_idle(
    ask: Callable[[], int | None],
    tell: Callable[[str], None],
    *,
    timeout_s: float,
    at_least_s: float,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Requests that are left after at most `timeout_s`, as a rule none.

    Args:
        ask: how many there are, `None` while nobody knows.
        tell: is given the step in words.
    """
    begun = known_at = now()
    left = 0
    while (waited_s := now() - begun) < timeout_s:
        found = ask()
        if found is not None:
            left, known_at = found, now()
        elif now() - known_at >= _UNKNOWN_S:
            return left
        if found == 0 and waited_s >= at_least_s:
            return 0
        tell(f"finishing {left} requests" if left else "draining")
        sleep(_POLL_S)
    return left
