"""Finding the cluster: kubeconfig with its contexts, or the pod that we run in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import ConfigError

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What a pod is given to ask the API with."""
_DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Connection:
    """A client of the official package, its server, and the namespace the context names."""

    api: Any
    server: str
    namespace: str


def connect(*, context: str | None = None, environ: Mapping[str, str] = os.environ) -> Connection:
    """The cluster of a context; without one, of the current context; without a kubeconfig, of this
    pod. Nothing is asked of it yet.

    Raises:
        ConfigError: `kubeconfig_missing`, `kubeconfig_invalid`, `context_unknown`.
    """
    files = [Path(name) for name in environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    files = files or [Path.home() / ".kube" / "config"]
    if any(file.exists() for file in files):
        return _from_kubeconfig(os.pathsep.join(map(str, files)), context)
    if "KUBERNETES_SERVICE_HOST" in environ and context is None:
        return _from_pod()
    raise ConfigError(
        "there is no kubeconfig, and this is no pod of a cluster",
        code="kubeconfig_missing",
        hint=f"set KUBECONFIG; looked for {', '.join(map(str, files))}",
    )


def _from_kubeconfig(files: str, context: str | None) -> Connection:
    from kubernetes import config

    try:
        contexts, current = config.list_kube_config_contexts(files)
        chosen = next(
            (each for each in contexts if each["name"] == context), None if context else current
        )
        if chosen is None:
            raise _unknown(context, [each["name"] for each in contexts])
        configuration = _configuration()
        config.load_kube_config(
            files, context=chosen["name"], client_configuration=configuration, persist_config=False
        )
        namespace = chosen["context"].get("namespace") or _DEFAULT_NAMESPACE
        return _connection(configuration, namespace)
    except ConfigError:
        raise
    # The official loader lets through whatever YAML, base64 and the wrong shapes of them raise.
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"the kubeconfig {files} cannot be used: {said}",
            code="kubeconfig_invalid",
            hint="kubectl config view shows what kubectl makes of it",
        ) from error


def _unknown(context: str | None, known: list[str]) -> ConfigError:
    return ConfigError(
        f"the kubeconfig has no context {context!r}" if context else "no context is chosen",
        code="context_unknown",
        hint=f"--context with one of: {', '.join(known) or 'none'}",
    )


def _from_pod() -> Connection:
    from kubernetes import config

    configuration = _configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
        namespace = (ACCOUNT_FOLDER / "namespace").read_text().strip()
    except (config.ConfigException, OSError) as error:
        raise ConfigError(
            f"this pod has no service account to use: {error}",
            code="kubeconfig_invalid",
            hint="set automountServiceAccountToken and serviceAccountName of the pod",
        ) from error
    return _connection(configuration, namespace or _DEFAULT_NAMESPACE)


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
