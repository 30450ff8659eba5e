"""Nodes of a network that this machine pretends to have: each is a network namespace.

A node has an address, a loopback device and all ports to itself, so that what runs in it needs no
special ports. Everything is made of namespaces that are named after the process that made them, the
switch between the nodes too: with a namespace its devices go, so that nothing else is to be
removed, and what a killed run has left is known by its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.adapters.run_record import process_start_ticks

_PREFIX = "galerne-test-"
_NAMESPACES = Path("/run/netns")
_SWITCH = "switch"
_BRIDGE = "br0"
_NETWORKS = "198.18.{}.0/24"
"""Set aside for tests of networks (RFC 2544), so that nobody is reached by them."""
_MAX_NETWORKS = 256
_PREFIX_LENGTH = 24
_OWN_HOST = 254
"""This machine's own place in the network, from which tests ask the nodes."""
_KILL_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Node:
    """One node; its cable's other end is a device of its name in the switch's namespace."""

    name: str
    address: str
    namespace: str
    switch: str

    def command(self, *words: str | Path) -> list[str]:
        """What runs `words` in the node; its process id is that of the command itself."""
        return ["nsenter", f"--net={_NAMESPACES / self.namespace}", "--", *map(str, words)]

    def run(self, *words: str | Path, timeout_s: float = 30) -> str:
        """Output of a command that ends by itself, run in the node.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        return _run(*self.command(*words), timeout_s=timeout_s)

    def processes(self) -> list[int]:
        """All processes in the node, whoever started them."""
        return _processes(self.namespace)

    def kill(self) -> None:
        """End all processes in the node at once, as a node does that loses its power."""
        _kill(self.namespace)

    def unplug(self) -> None:
        """Cut the node off: nobody reaches it, and no connection hears that it broke."""
        _run("ip", "-netns", self.switch, "link", "set", self.name, "down")

    def plug(self) -> None:
        """Undo `unplug`."""
        _run("ip", "-netns", self.switch, "link", "set", self.name, "up")


def why_unavailable() -> str | None:
    """Why this machine lets this user make no nodes; `None` if it does."""
    if missing := [tool for tool in ("ip", "nsenter") if shutil.which(tool) is None]:
        return f"{' and '.join(missing)} not found; nodes are network namespaces"
    namespace = _own_namespace("probe")
    try:
        _run("ip", "netns", "add", namespace)
        _run("nsenter", f"--net={_NAMESPACES / namespace}", "true")
        _run("ip", "-netns", namespace, "link", "add", _BRIDGE, "type", "bridge")
    except subprocess.CalledProcessError as error:
        return f"this user may make no network namespaces: {error.stderr.strip()}"
    finally:
        if (_NAMESPACES / namespace).exists():
            _remove(namespace)
    return None


@contextmanager
def network(names: Sequence[str]) -> Iterator[Mapping[str, Node]]:
    """Nodes that reach each other and are reached from here.

    On exit all their processes have ended and nothing of them is left, whatever has happened.
    """
    remove_leftovers()
    try:
        number = _free_network()
        switch = _make_switch(number)
        yield {
            name: _make_node(name, _address(number, host), switch)
            for host, name in enumerate(names, start=1)
        }
    finally:
        _remove_all(_own_namespace(""))


def remove_leftovers() -> None:
    """End and remove the nodes of runs that are gone."""
    for namespace in _namespaces():
        owner, _, ticks = namespace.removeprefix(_PREFIX).rpartition("-")[0].partition("-")
        if not owner.isdigit() or process_start_ticks(int(owner)) != int(ticks):
            _remove(namespace)


def _own_namespace(name: str) -> str:
    return f"{_PREFIX}{os.getpid()}-{process_start_ticks(os.getpid())}-{name}"


def _namespaces() -> list[str]:
    return [path.name for path in _NAMESPACES.glob(f"{_PREFIX}*")]


def _remove_all(prefix: str) -> None:
    for namespace in _namespaces():
        if namespace.startswith(prefix):
            _remove(namespace)


def _remove(namespace: str) -> None:
    _kill(namespace)
    _run("ip", "netns", "delete", namespace)


def _free_network() -> int:
    """The first network that no device of this machine is in."""
    devices = json.loads(_run("ip", "-json", "-4", "address"))
    taken = {address["local"] for device in devices for address in device["addr_info"]}
    own = (n for n in range(_MAX_NETWORKS) if _address(n, _OWN_HOST) not in taken)
    return next(own)


def _address(network_number: int, host: int) -> str:
    return _NETWORKS.format(network_number).replace("0/24", str(host))


def _make_switch(number: int) -> str:
    """A bridge, with this machine connected to it."""
    switch = _own_namespace(_SWITCH)
    device = f"gal{os.getpid()}"
    _run("ip", "netns", "add", switch)
    _run("ip", "-netns", switch, "link", "add", _BRIDGE, "type", "bridge")
    _run("ip", "-netns", switch, "link", "set", _BRIDGE, "up")
    _run("ip", "link", "add", device, "type", "veth", "peer", "name", "host", "netns", switch)
    _run("ip", "-netns", switch, "link", "set", "host", "master", _BRIDGE, "up")
    _run("ip", "address", "add", f"{_address(number, _OWN_HOST)}/{_PREFIX_LENGTH}", "dev", device)
    _run("ip", "link", "set", device, "up")
    return switch


def _make_node(name: str, address: str, switch: str) -> Node:
    node = Node(name, address, _own_namespace(name), switch)
    inside = ("ip", "-netns", node.namespace)
    _run("ip", "netns", "add", node.namespace)
    _run(*inside, "link", "set", "lo", "up")
    peer = ("peer", "name", name, "netns", switch)
    _run(*inside, "link", "add", "eth0", "type", "veth", *peer)
    _run("ip", "-netns", switch, "link", "set", name, "master", _BRIDGE, "up")
    _run(*inside, "address", "add", f"{address}/{_PREFIX_LENGTH}", "dev", "eth0")
    _run(*inside, "link", "set", "eth0", "up")
    # Programs find their own address by asking for the way to any other.
    gateway = f"{address.rpartition('.')[0]}.{_OWN_HOST}"
    _run(*inside, "route", "add", "default", "via", gateway)
    return node


def _processes(namespace: str) -> list[int]:
    return [int(pid) for pid in _run("ip", "netns", "pids", namespace).split()]


def _kill(namespace: str) -> None:
    """SIGKILL until nobody is left: who is being killed may still have started a child."""
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while found := _processes(namespace):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of {namespace} do not end: {found}")
        time.sleep(0.01)


def _run(*words: str | Path, timeout_s: float = 30) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=True)
    return done.stdout
