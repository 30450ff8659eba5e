"""Options that all commands of `galerne k8s` share, and the platform they lead to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import update_wrapper
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import typer

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.connection import connect
from serving.adapters.kube.platform_reader import read_snapshot
from serving.adapters.kube.transport import Pacing
from serving.errors import ClusterError
from serving.operations.snapshot import Snapshot

EXIT_STATUS = "Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 timed out."

NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="[default: that of the context]", show_default=False),
]
ContextOption = Annotated[
    str | None,
    typer.Option(
        "--context", help="Context of the kubeconfig. [default: the current one]",
        show_default=False,
    ),
]  # fmt: skip
NameOption = Annotated[
    str, typer.Option("--name", help="Name of the RayService, which is that of the Helm release.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds until it gives up.")
]

DEFAULT_NAME = "galerne"
SHORT_TIMEOUT_S = 30.0
"""For commands that only ask."""
LONG_TIMEOUT_S = 1800.0
"""For commands that wait for models to load: machines, images and weights take many minutes."""

_POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """A platform on a cluster, and how long to try."""

    client: KubeClient
    namespace: str
    name: str
    timeout_s: float

    def snapshot(self) -> Snapshot:
        """The platform as it is."""
        return read_snapshot(self.client, self.namespace, self.name)

    def follow(self) -> Iterator[tuple[float, Snapshot]]:
        """Seconds since the start and the platform as it is then, again and again.

        A server that fails for a while, as it does during its own upgrade, is asked on.

        Raises:
            ClusterError: it still fails when the time is over; or it has never answered.
        """
        pacing = self.client.transport.pacing
        begun = pacing.clock()
        while True:
            try:
                snapshot = self.snapshot()
            except ClusterError as error:
                is_over = pacing.clock() - begun >= self.timeout_s
                if not error.retryable or not self.client.transport.has_answered or is_over:
                    raise
            else:
                yield pacing.clock() - begun, snapshot
            pacing.sleep(_POLL_S)


def on_platform(
    *, timeout_s: float = SHORT_TIMEOUT_S
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command of a function whose first parameter is a `Place`: in its stead the command has the
    options that lead there, after those of its own.

    Args:
        timeout_s: the default of `--timeout`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(
            *,
            ctx: typer.Context,
            namespace: NamespaceOption = None,
            context: ContextOption = None,
            name: NameOption = DEFAULT_NAME,
            timeout: TimeoutOption = timeout_s,
            **own: Any,
        ) -> None:
            command(_open_place(ctx, namespace, context, name, timeout), **own)

        shared = list(signature(run, eval_str=True).parameters.values())[:-1]
        own = list(signature(command, eval_str=True).parameters.values())[1:]
        # What Typer reads options from.
        options = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in (*own, *shared)]
        update_wrapper(run, command)
        run.__signature__ = Signature(options)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in options}
        return run

    return decorate


def _open_place(
    ctx: typer.Context, namespace: str | None, context: str | None, name: str, timeout_s: float
) -> Place:
    """The platform that the options name. Tests give their own pacing in `ctx.obj`.

    Raises:
        ConfigError: see `connect`.
    """
    connection = connect(context=context, environ=os.environ, timeout_s=timeout_s)
    pacing = ctx.obj if isinstance(ctx.obj, Pacing) else None
    client = KubeClient(connection, timeout_s=min(timeout_s, SHORT_TIMEOUT_S), pacing=pacing)
    return Place(client, namespace or connection.namespace, name, timeout_s)
