"""Options that all commands of `galerne k8s` share, and the platform they lead to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

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

SHORT_TIMEOUT_S = 30.0
"""For commands that only ask."""

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


@dataclass(frozen=True, slots=True)
class PlatformOptions:
    """Which platform a command is about. `ctx.obj` may hold a test's own pacing."""

    ctx: typer.Context
    namespace: NamespaceOption = None
    context: ContextOption = None
    name: NameOption = "galerne"
    timeout: TimeoutOption = SHORT_TIMEOUT_S

    def open(self) -> Place:
        """The platform.

        Raises:
            ConfigError: see `connect`.
        """
        connection = connect(context=self.context, environ=os.environ, timeout_s=self.timeout)
        pacing = self.ctx.obj if isinstance(self.ctx.obj, Pacing) else None
        client = KubeClient(connection, timeout_s=min(self.timeout, SHORT_TIMEOUT_S), pacing=pacing)
        namespace = self.namespace or connection.namespace
        return Place(client, namespace, self.name, self.timeout)


@dataclass(frozen=True, slots=True)
class PatientOptions(PlatformOptions):
    """The same for a command that waits for models to load: machines, images and weights take many
    minutes."""

    timeout: TimeoutOption = 1800.0
