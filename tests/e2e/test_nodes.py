"""Nodes that are network namespaces do what the tests on several nodes rely on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.harness import wait_until
from e2e.nodes import Node, network, remove_leftovers, why_unavailable

PORT = 8000
_LISTEN = f"""
import socket, sys
listener = socket.create_server(("0.0.0.0", {PORT}))
while True:
    connection, _ = listener.accept()
    connection.sendall(sys.argv[1].encode())
    connection.close()
"""
_HOLD = """
import subprocess, time
from e2e.nodes import network
with network(["lost"]) as nodes:
    subprocess.Popen(nodes["lost"].command("sleep", "600"))
    print(nodes["lost"].namespace, flush=True)
    time.sleep(600)
"""
_NAMESPACES = Path("/run/netns")


@pytest.fixture(scope="module", autouse=True)
def _available() -> None:
    if reason := why_unavailable():
        pytest.skip(reason)


@pytest.fixture
def pair() -> Iterator[tuple[Node, Node]]:
    with network(["one", "two"]) as nodes:
        yield nodes["one"], nodes["two"]
    left = [path.name for path in _NAMESPACES.glob("galerne-test-*")]
    assert not {node.namespace for node in nodes.values()} & set(left)


def said_by(node: Node) -> str:
    """What a node's listener says, nothing if it is not reached."""
    try:
        with socket.create_connection((node.address, PORT), timeout=0.3) as connection:
            return connection.recv(100).decode()
    except OSError:
        return ""


def test_nodes_have_their_own_ports_and_are_cut_off_and_killed_alone(
    pair: tuple[Node, Node],
) -> None:
    one, two = pair
    listeners = [
        subprocess.Popen(node.command(sys.executable, "-c", _LISTEN, node.name)) for node in pair
    ]
    for node in pair:
        wait_until(lambda: said_by(node) == node.name, timeout_s=10)  # noqa: B023 (over at once)
    assert one.processes() == [listeners[0].pid]

    one.unplug()
    assert (said_by(one), said_by(two)) == ("", "two")
    one.plug()
    wait_until(lambda: said_by(one) == "one", timeout_s=10)

    one.kill()
    assert (said_by(one), said_by(two)) == ("", "two")
    assert (one.processes(), listeners[0].wait()) == ([], -9)
    two.kill()
    listeners[1].wait()


def test_nodes_of_a_killed_run_are_removed() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD], env=environment, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        namespace = run.stdout.readline().strip()
        remove_leftovers()
        assert (_NAMESPACES / namespace).exists(), "its owner still runs"
        run.kill()
    remove_leftovers()
    assert not (_NAMESPACES / namespace).exists()
