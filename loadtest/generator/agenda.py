"""What is to be done when, to a fraction of a millisecond.

An event loop's own timers are good to one millisecond (epoll's and libuv's unit), which would stand
in every figure of a fast server. The kernel's timerfd is read like a socket and has no such unit.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_CALLS_AT_ONCE = 32
"""Then sockets have their turn: a generator that is behind must not read answers late as well."""
_libc = ctypes.CDLL(None, use_errno=True)


class _ItimerSpec(ctypes.Structure):
    """Source: timerfd_settime(2)."""

    _fields_ = (
        ("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long), ("value_ns", ctypes.c_long),
    )  # fmt: skip


class Agenda:
    """Calls that are due at times of `time.perf_counter`, in order, on the running event loop.

    A call that takes long makes later ones late; nothing is ever dropped or early. A call that
    raises goes to `on_error`, and later ones are made all the same.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._armed_for = float("inf")
        self._timer = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._timer, self._ring)

    def __len__(self) -> int:
        return len(self._calls)

    def at(self, due: float, call: Callable[[], None]) -> None:
        """Make this call at that time; at once, but not before this returns, if it has passed."""
        heappush(self._calls, (due, next(self._numbers), call))
        if due < self._armed_for:
            self._arm(due)

    def close(self) -> None:
        """Forget all calls."""
        self._calls.clear()
        self._loop.remove_reader(self._timer)
        os.close(self._timer)

    def _ring(self) -> None:
        try:
            os.read(self._timer, 8)
        except BlockingIOError:
            return  # armed anew since it rang
        self._armed_for = 0.0  # what is added meanwhile needs no alarm of its own
        for _ in range(_CALLS_AT_ONCE):
            if not self._calls or self._calls[0][0] > time.perf_counter():
                break
            try:
                heappop(self._calls)[2]()
            except Exception as error:
                self._on_error(error)
        self._armed_for = float("inf")
        if self._calls:
            self._arm(self._calls[0][0])

    def _arm(self, due: float) -> None:
        self._armed_for = due
        # Zero would disarm it; a time that has passed rings at once.
        due_ns = max(int(due * 1e9), 1)
        spec = _ItimerSpec(0, 0, due_ns // 1_000_000_000, due_ns % 1_000_000_000)
        if _libc.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
