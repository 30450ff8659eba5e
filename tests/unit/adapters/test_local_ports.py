"""Ports that are checked, and ports that are kept."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from serving.adapters.local_ports import HeldPorts, check_port
from serving.errors import ConfigError

HOST = "127.0.0.1"


@pytest.fixture
def held() -> Iterator[HeldPorts]:
    ports = HeldPorts()
    yield ports
    ports.release()


def listener_on(port: int) -> socket.socket:
    """As HAProxy opens one."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((HOST, port))
    listener.listen()
    return listener


# --- checking ----------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [HOST, "0.0.0.0"])
@pytest.mark.parametrize("wanted", [HOST, "0.0.0.0", "localhost"])
def test_a_busy_port_is_named(address: str, wanted: str) -> None:
    with socket.create_server((address, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)) as caught:
            check_port(wanted, port)

    assert (caught.value.code, caught.value.param) == ("port_in_use", "endpoint.port")
    assert "--port" in caught.value.hint


def test_a_port_that_was_just_in_use_passes() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((HOST, port)) as client, listener.accept()[0] as accepted:
            accepted.close()  # the server's side lingers in TIME_WAIT
            client.recv(1)
    check_port(HOST, port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_unusable(held: HeldPorts, host: str) -> None:
    port = held.hold(HOST, 0)
    with pytest.raises(ConfigError) as caught:
        check_port(host, port)
    assert caught.value.code == "address_unusable"


def test_no_host_is_every_address(held: HeldPorts) -> None:
    check_port("", held.hold(HOST, 0))


# --- keeping -----------------------------------------------------------------------------------


def test_kept_ports_differ_and_pass_the_check(held: HeldPorts) -> None:
    ports = held.hold_local()
    assert len(set(ports)) == len(ports)
    for port in ports:
        check_port(HOST, port)


def test_a_stranger_does_not_get_a_kept_port(held: HeldPorts) -> None:
    port = held.hold(HOST, 0)
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((HOST, port))


def test_connections_go_to_the_listener_that_a_port_was_kept_for(held: HeldPorts) -> None:
    port = held.hold(HOST, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port))

    with listener_on(port) as listener:
        for _ in range(8):
            with socket.create_connection((HOST, port)), listener.accept()[0]:
                pass


def test_a_busy_port_is_not_kept(held: HeldPorts) -> None:
    with listener_on(0) as listener, pytest.raises(ConfigError) as caught:
        held.hold(HOST, listener.getsockname()[1])
    assert caught.value.code == "port_in_use"
