"""Ways to break a running process from outside, as crashes, kernels and networks do.

Sockets of another process are reached by copies of their descriptors, which takes the right to
trace it: root, or the same user where ptrace allows it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import psutil

_PIDFD_GETFD = 438
"""System call of x86-64 and arm64; Python has no function for it."""
_TCP_REPAIR = 19


def kill(pid: int) -> None:
    """As the kernel does when memory runs out."""
    os.kill(pid, signal.SIGKILL)


def freeze(pid: int) -> None:
    """The process keeps its sockets and does nothing."""
    os.kill(pid, signal.SIGSTOP)


def slow(pid: int, *, seconds: float, share: float) -> None:
    """The process runs for a share of the time only."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.1 * (1 - share))
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.1 * share)


def close_listeners(pid: int) -> int:
    """The process takes no new connections; those it has go on. How many listeners it had."""
    numbers = [found.fd for found in _connections(pid) if found.status == psutil.CONN_LISTEN]
    for listener in _copies(pid, numbers):
        listener.shutdown(socket.SHUT_RDWR)
    return len(numbers)


def cut_silently(pid: int) -> int:
    """The connections that the process has accepted send nothing more and say nothing, as when the
    network between is gone. How many it had."""
    connections = _connections(pid)
    ports = {found.laddr.port for found in connections if found.status == psutil.CONN_LISTEN}
    accepted = [
        found.fd
        for found in connections
        if found.status == psutil.CONN_ESTABLISHED and found.laddr.port in ports
    ]
    for connection in _copies(pid, accepted):
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    return len(accepted)


def _connections(pid: int) -> list[Any]:
    return list(psutil.Process(pid).net_connections("tcp"))


def _copies(pid: int, numbers: Iterable[int]) -> Iterator[socket.socket]:
    """Copies of those of a process's sockets that are still open.

    Raises:
        OSError: this user may not.
    """
    handle = os.pidfd_open(pid)
    try:
        for number in numbers:
            copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, handle, number, 0)
            if copy < 0 and ctypes.get_errno() == errno.EBADF:
                continue  # closed since it was listed
            if copy < 0:
                raise OSError(ctypes.get_errno(), "cannot reach the sockets of another process")
            with socket.socket(fileno=copy) as found:
                yield found
    finally:
        os.close(handle)
