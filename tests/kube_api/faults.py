"""Faults to order: the next requests that match fail in one way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from threading import Lock


class Fault(StrEnum):
    """How a request fails.

    `HANG`: no answer until the server ends. `RESET`: the connection is closed without one.
    `EXPIRED_TOKEN`: 401. `FORBIDDEN`: 403. `DROP_WATCH`: a watch is cut off after its first event.
    """

    CONFLICT = "conflict"
    TOO_MANY_REQUESTS = "too_many_requests"
    INTERNAL_ERROR = "internal_error"
    HANG = "hang"
    RESET = "reset"
    EXPIRED_TOKEN = "expired_token"
    FORBIDDEN = "forbidden"
    DROP_WATCH = "drop_watch"


@dataclass(slots=True)
class _Order:
    fault: Fault
    verb: str
    path: str
    left: int
    retry_after_s: int | None


class Faults:
    """The faults ordered and not yet had."""

    def __init__(self) -> None:
        self._orders: list[_Order] = []
        self._lock = Lock()

    def order(
        self,
        fault: Fault,
        *,
        times: int = 1,
        verb: str = "",
        path: str = "",
        retry_after_s: int | None = None,
    ) -> None:
        """The next `times` requests of this verb (get, list, watch, create, update, patch, delete)
        whose path contains `path` fail so. Nothing given matches all."""
        with self._lock:
            self._orders.append(_Order(fault, verb, path, times, retry_after_s))

    def next_for(self, verb: str, path: str) -> tuple[Fault, int | None] | None:
        """The fault this request has, and after how many seconds it may be repeated."""
        with self._lock:
            for order in self._orders:
                if order.left and order.verb in ("", verb) and order.path in path:
                    order.left -= 1
                    return order.fault, order.retry_after_s
        return None

    @property
    def num_left(self) -> int:
        """Faults that no request has had yet."""
        with self._lock:
            return sum(order.left for order in self._orders)
