"""Finding the cluster: kubeconfig with its contexts, or the pod that we run in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.adapters.kube.kubeconfig import DEFAULT_NAMESPACE, load_kubeconfig
from serving.errors import ConfigError

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What a pod is given to ask the API with."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A client of the official package, its server, and the namespace the context names."""

    api: Any
    server: str
    namespace: str


def connect(
    *,
    context: str | None = None,
    environ: Mapping[str, str] = os.environ,
    account: Path = ACCOUNT_FOLDER,
    timeout_s: float = 30.0,
) -> Connection:
    """The cluster of a context; without one, of the current context; without a kubeconfig, of this
    pod. Nothing is asked of it yet. A credential plugin of the kubeconfig has `timeout_s`.

    Raises:
        ConfigError: `kubeconfig_missing`, `kubeconfig_invalid`, `context_unknown`,
            `kube_plugin_failed`.
        TimedOut: `kube_plugin_timeout`.
    """
    files = [Path(name) for name in environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    files = files or [Path.home() / ".kube" / "config"]
    if any(file.exists() for file in files):
        configuration = _configuration()
        namespace = load_kubeconfig(
            configuration, os.pathsep.join(map(str, files)), context, environ=environ,
            timeout_s=timeout_s,
        )  # fmt: skip
        return _connection(configuration, namespace)
    if "KUBERNETES_SERVICE_HOST" in environ and context is None:
        return _from_pod(environ, account)
    raise ConfigError(
        "there is no kubeconfig, and this is no pod of a cluster",
        code="kubeconfig_missing",
        hint=f"set KUBECONFIG; looked for {', '.join(map(str, files))}",
    )


def _from_pod(environ: Mapping[str, str], account: Path) -> Connection:
    from kubernetes.config import ConfigException
    from kubernetes.config.incluster_config import InClusterConfigLoader

    configuration = _configuration()
    try:
        loader = InClusterConfigLoader(
            str(account / "token"), str(account / "ca.crt"), environ=environ
        )
        loader.load_and_set(configuration)
        namespace = (account / "namespace").read_text().strip()
    except (ConfigException, OSError) as error:
        raise ConfigError(
            f"this pod has no service account to use: {error}",
            code="kubeconfig_invalid",
            hint="set automountServiceAccountToken and serviceAccountName of the pod",
        ) from error
    return _connection(configuration, namespace or DEFAULT_NAMESPACE)


def _configuration() -> Any:
    from kubernetes.client import Configuration

    configuration = Configuration()
    # urllib3 would repeat requests on its own, sleeping for Retry-After without a limit.
    configuration.retries = False
    return configuration


def _connection(configuration: Any, namespace: str) -> Connection:
    import urllib3
    from kubernetes.client import ApiClient

    if not configuration.verify_ssl:  # as the kubeconfig wants it; no need to say so each time
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    api = ApiClient(configuration)
    return Connection(api, configuration.host, namespace)
