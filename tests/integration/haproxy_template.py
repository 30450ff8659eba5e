"""HAProxy's configuration as the installed Ray Serve renders it, before any hardening."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def render(
    folder: Path,
    *,
    application_path: str | None = "/",
    endpoint_port: int = 8000,
    gateway_port: int = 9,
    other_gateways: Sequence[tuple[str, int]] = (),
    fallback_port: int = 9,
    **options: Any,
) -> Path:
    """The file that Ray Serve writes to `folder` for one gateway on the loopback address.

    Args:
        application_path: what paths of the application begin with; `None` while Serve knows none.
        endpoint_port: where HAProxy shall listen.
        gateway_port: where it expects the gateway; nothing answers at the default.
        other_gateways: address and port of those on other nodes.
        fallback_port: the same of Serve's own proxy, which Ray names as the gateways' stand-in.
        options: further fields of Ray's `HAProxyConfig`.
    """
    with warnings.catch_warnings():
        # Ray 2.60 declares its settings in a way pydantic 2.14 deprecates; seen on first import.
        warnings.simplefilter("ignore")
        from ray.serve._private.haproxy import (
            BackendConfig,
            HAProxyApi,
            HAProxyConfig,
            ServerConfig,
        )
        from ray.serve.config import HTTPOptions

    config = HAProxyConfig(
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_socket_path=str(folder / "metrics.sock"),
        http_options=HTTPOptions(host="127.0.0.1", port=endpoint_port),
        has_received_routes=True,
        has_received_servers=True,
        **options,
    )
    backends = {}
    if application_path is not None:
        server = ServerConfig(name="gateway-1", host="127.0.0.1", port=gateway_port)
        fallback = ServerConfig(
            name="SERVE_PROXY_ACTOR-fallback", host="127.0.0.1", port=fallback_port
        )
        backends["galerne"] = BackendConfig(
            name="http-galerne",
            path_prefix=application_path,
            app_name="galerne",
            servers=[
                server,
                *(
                    ServerConfig(name=f"gateway-{number}", host=host, port=port)
                    for number, (host, port) in enumerate(other_gateways, start=2)
                ),
            ],
            fallback_server=fallback,
        )
    path = folder / "haproxy.cfg"
    HAProxyApi(config, backends, config_file_path=str(path))._generate_config_file_internal()
    return path
