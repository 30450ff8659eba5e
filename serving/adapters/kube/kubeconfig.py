"""The cluster and the user of a context, into the official client's configuration."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.adapters.kube.credential_plugin import Credentials, read_plugin
from serving.errors import ConfigError, ServingError

DEFAULT_NAMESPACE = "default"


def load_kubeconfig(
    configuration: Any,
    files: str,
    context: str | None,
    *,
    environ: Mapping[str, str],
    timeout_s: float,
) -> str:
    """The namespace of a context, which the configuration now leads to.

    Args:
        configuration: of the official client.
        files: paths, separated as in `KUBECONFIG`.
        context: its name; `None`: the current one.
        environ: of credential plugins.
        timeout_s: how long each of them may take to answer.

    Raises:
        ConfigError: `kubeconfig_invalid`, `context_unknown`, `kube_plugin_failed`.
        TimedOut: `kube_plugin_timeout`.
    """
    from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

    try:
        merged = KubeConfigMerger(files).config
        chosen = _context(merged, context)
        refresh = _ask_plugin(merged, chosen["context"], environ=environ, timeout_s=timeout_s)
        loader = KubeConfigLoader(merged, active_context=chosen["name"], config_base_path=None)
        loader.load_and_set(configuration)
        if refresh is not None:
            configuration.refresh_api_key_hook = refresh
        return chosen["context"].safe_get("namespace") or DEFAULT_NAMESPACE
    except ServingError:
        raise
    # The official loader lets through whatever YAML, base64 and the wrong shapes of them raise.
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"the kubeconfig {files} cannot be used: {said}",
            code="kubeconfig_invalid",
            hint="kubectl config view shows what kubectl makes of it",
        ) from error


def _context(merged: Any, name: str | None) -> Any:
    contexts = merged["contexts"]
    wanted = name or merged["current-context"]
    found = contexts.get_with_name(wanted, safe=True) if wanted else None
    if found is not None:
        return found
    known = ", ".join(each["name"] for each in contexts.value)
    raise ConfigError(
        f"the kubeconfig has no context {wanted!r}" if wanted else "no context is chosen",
        code="context_unknown",
        hint=f"--context with one of: {known or 'none'}",
    )


def _ask_plugin(
    merged: Any, context: Any, *, environ: Mapping[str, str], timeout_s: float
) -> Callable[[Any], None] | None:
    """Put the plugin's credentials in the place of the plugin; nothing if the user has none.

    Returns what renews a token that has run out. A certificate is not renewed: connections keep it.
    """
    node = merged["users"].get_with_name(context["user"], safe=True)
    user = (node.safe_get("user") if node is not None else None) or {}
    if not user.get("exec"):
        return None
    plugin = read_plugin(
        user.pop("exec"),
        folder=Path(node.path).parent,
        cluster=merged["clusters"].get_with_name(context["cluster"])["cluster"].value,
        environ=environ,
        timeout_s=timeout_s,
    )
    held = [plugin.ask()]
    user.update(_as_user(held[0]))

    def refresh(configuration: Any) -> None:
        if not held[0].hold(datetime.now(UTC)):
            held[0] = plugin.ask()
            configuration.api_key["BearerToken"] = f"Bearer {held[0].token}"

    return refresh if held[0].token else None


def _as_user(credentials: Credentials) -> dict[str, str]:
    """Credentials as a kubeconfig has them.

    >>> _as_user(Credentials(token="t"))
    {'token': 't'}
    """
    found = {
        "token": credentials.token,
        "client-certificate-data": base64.b64encode(credentials.certificate.encode()).decode(),
        "client-key-data": base64.b64encode(credentials.key.encode()).decode(),
    }
    return {key: value for key, value in found.items() if value}
