"""Ports of this machine: whether one is free, and keeping it free until its listener comes."""

from __future__ import annotations

import socket
from typing import NamedTuple

from serving.errors import ConfigError


class LocalPorts(NamedTuple):
    """Ports that Serve's processes listen on besides the endpoint."""

    haproxy_stats: int
    haproxy_metrics: int
    fallback_proxy: int


class HeldPorts:
    """Keeps ports from being given to whoever asks the kernel for any port, as Ray's processes do
    by the dozen between the moment a port is found free and the moment HAProxy listens on it.

    A held socket is bound and does not listen, so that it gets no connection. It shares its port
    with listeners of the same user that set `SO_REUSEPORT`: HAProxy and Serve's own proxy do.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def hold(self, host: str, port: int) -> int:
        """Keep `port`, or any free one for 0, and return it.

        Raises:
            ConfigError: see `check_port`.
        """
        if port:
            check_port(host, port)
        holder = socket.socket(_family(host))
        self._sockets.append(holder)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))
        return int(holder.getsockname()[1])

    def hold_local(self) -> LocalPorts:
        """Keep a port of the loopback address for each of Serve's internal listeners."""
        return LocalPorts(*(self.hold("127.0.0.1", 0) for _ in LocalPorts._fields))

    def release(self) -> None:
        """Let all go."""
        for holder in self._sockets:
            holder.close()


def check_port(host: str, port: int) -> None:
    """Return if the endpoint's port is free.

    Raises:
        ConfigError: `port_in_use` or `address_unusable`.
    """
    with socket.socket(_family(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise _address_error(
                f"this user may not listen on port {port}", "use a port above 1023"
            ) from error
        except OSError as error:
            if error.errno != 98:  # EADDRINUSE
                raise _address_error(
                    f"cannot listen on {host}: {error.strerror}", "check endpoint.host"
                ) from error
            raise ConfigError(
                f"port {port} is already in use",
                code="port_in_use",
                param="endpoint.port",
                hint=f"choose another with --port, or see who has it: ss -ltnp 'sport = :{port}'",
            ) from error


def _address_error(message: str, hint: str) -> ConfigError:
    return ConfigError(message, code="address_unusable", param="endpoint", hint=hint)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
