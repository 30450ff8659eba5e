"""Credentials from a plugin that a kubeconfig names: `CredentialPlugin`.

The official client runs plugins too, but waits for them without end, and goes on without
credentials if they fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from serving.errors import ConfigError, TimedOut

_MARGIN = timedelta(seconds=30)
"""Credentials that run out sooner are asked for anew, as a request takes its time."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A token, or a client's certificate and its key in PEM, and until when they hold."""

    token: str = ""
    certificate: str = ""
    key: str = ""
    expires_at: datetime | None = None

    def hold(self, now: datetime) -> bool:
        """Whether they may still be used."""
        return self.expires_at is None or now + _MARGIN < self.expires_at


@dataclass(frozen=True, slots=True)
class CredentialPlugin:
    """A program that prints credentials.

    `cluster` is told to it; `None`: nothing is. It has `timeout_s` for each answer.

    Source: kubernetes.io, client-go credential plugins; Client Authentication (v1).
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    api_version: str
    cluster: Mapping[str, Any] | None
    asks_user: bool
    install_hint: str
    timeout_s: float

    def ask(self) -> Credentials:
        """New credentials.

        Raises:
            ConfigError: `kube_plugin_failed`.
            TimedOut: `kube_plugin_timeout`, no answer in time; the plugin is ended.
        """
        return _credentials(self._answer(), self._failure)

    def _answer(self) -> bytes:
        is_interactive = self.asks_user and sys.stdin is not None and sys.stdin.isatty()
        spec: dict[str, Any] = {"interactive": is_interactive}
        if self.cluster is not None:
            spec["cluster"] = self.cluster
        request = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec}
        try:
            done = subprocess.run(  # noqa: S603 (as the kubeconfig has it)
                self.command,
                stdin=None if is_interactive else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env={**self.environment, "KUBERNETES_EXEC_INFO": json.dumps(request)},
                timeout=self.timeout_s,
                check=True,
            )
        except subprocess.TimeoutExpired as error:
            raise self._late() from error
        except subprocess.CalledProcessError as error:
            raise self._failure(f"it ended with status {error.returncode}") from error
        except OSError as error:
            raise self._failure(error.strerror or str(error)) from error
        return done.stdout

    def _failure(self, why: str) -> ConfigError:
        return ConfigError(
            f"the kubeconfig's credential plugin {self.command[0]} gives no credentials: {why}",
            code="kube_plugin_failed",
            hint=self.install_hint or f"run it by hand: {' '.join(self.command)}",
        )

    def _late(self) -> TimedOut:
        return TimedOut(
            f"the kubeconfig's credential plugin {self.command[0]} has not answered within "
            f"{self.timeout_s:g} s",
            code="kube_plugin_timeout",
            hint=f"run it by hand, it may wait for a login: {' '.join(self.command)}; or give it "
            "more time with --timeout",
        )


def read_plugin(
    exec_config: Mapping[str, Any],
    *,
    folder: Path,
    cluster: Mapping[str, Any],
    environ: Mapping[str, str],
    timeout_s: float,
) -> CredentialPlugin:
    """The plugin of a user's `exec` section.

    Args:
        exec_config: the section.
        folder: of the kubeconfig, to which a command with a path is relative.
        cluster: the section of the cluster.
        environ: what the plugin's own variables come on top of.
        timeout_s: for each answer.

    Raises:
        KeyError: it names no command or version.
    """
    command = str(exec_config["command"])
    if os.sep in command:
        command = str(folder / command)
    own = {each["name"]: each["value"] for each in exec_config.get("env") or ()}
    return CredentialPlugin(
        command=(command, *(str(each) for each in exec_config.get("args") or ())),
        environment={**environ, **own},
        api_version=exec_config["apiVersion"],
        cluster=_told(cluster) if exec_config.get("provideClusterInfo") else None,
        asks_user=exec_config.get("interactiveMode") != "Never",
        install_hint=" ".join(str(exec_config.get("installHint") or "").split()),
        timeout_s=timeout_s,
    )


def _told(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """A cluster as plugins are told of it: what its extension for them holds is `config`."""
    told = {key: value for key, value in cluster.items() if key != "extensions"}
    for each in cluster.get("extensions") or ():
        if each["name"] == "client.authentication.k8s.io/exec":
            told["config"] = each["extension"]
    return told


def _credentials(answer: bytes, failure: Callable[[str], ConfigError]) -> Credentials:
    try:
        status = json.loads(answer)["status"]
        expires = status.get("expirationTimestamp")
        found = Credentials(
            status.get("token") or "",
            status.get("clientCertificateData") or "",
            status.get("clientKeyData") or "",
            datetime.fromisoformat(expires).astimezone(UTC) if expires else None,
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise failure("what it prints is no ExecCredential") from error
    if not found.token and not (found.certificate and found.key):
        raise failure("it prints neither a token nor a certificate with its key")
    return found
