"""One JSON line per request: who, what, how long. Never prompts, completions or keys.

A thread of its own writes them, so that a disk that is full or hangs costs lines, never a request.
The gap is told in three places: here, once it is over, `galerne status` and Serve's log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

from serving.adapters.line_file import LineFile

_MAX_BYTES = 64 * 1024 * 1024
_NUM_BACKUPS = 4
_MAX_WAITING = 20_000
"""Lines that may wait for the disk: a few megabytes, some seconds of the busiest gateway."""
_MAX_BATCH = 256

logger = logging.getLogger("ray.serve")


def _ignore(_num_lines: int) -> None:
    pass


class AccessLog:
    """Writes to one rotating file.

    `num_lost` counts the lines that could not be written since the log was opened; `on_lost` is
    told how many more, from any thread.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_lost: Callable[[int], None] = _ignore,
        max_waiting: int = _MAX_WAITING,
    ) -> None:
        self._path = path
        self._on_lost = on_lost
        self._file = LineFile(path, max_bytes=_MAX_BYTES, num_backups=_NUM_BACKUPS)
        self._waiting: Queue[str] = Queue(max_waiting)
        self._lock = threading.Lock()
        self.num_lost = 0
        self._num_told = 0  # of the lost lines, those that the file itself tells of
        self._reason = ""
        threading.Thread(target=self._write_for_ever, name="access-log", daemon=True).start()

    def write(self, fields: Mapping[str, Any]) -> None:
        """Hand one line to the writer; returns at once."""
        try:
            self._waiting.put_nowait(_line({"event": "request", **fields}))
        except Full:
            self._lose(1, "the disk does not keep up")

    def problems(self) -> list[str]:
        """What an operator must know, as long as it lasts."""
        num_untold = self.num_lost - self._num_told
        return [f"access log: {self._reason}, {num_untold} lines lost"] if num_untold else []

    def wait_until_written(self) -> None:
        """Every line so far is in the file, or counted as lost."""
        self._waiting.join()

    def _write_for_ever(self) -> None:
        while True:
            batch = self._next_batch()
            self._append(batch)
            for _ in batch:
                self._waiting.task_done()

    def _next_batch(self) -> list[str]:
        batch = [self._waiting.get()]
        with contextlib.suppress(Empty):
            while len(batch) < _MAX_BATCH:
                batch.append(self._waiting.get_nowait())
        return batch

    def _append(self, batch: list[str]) -> None:
        num_lost = self.num_lost
        gap = num_lost - self._num_told
        notice = _line({"event": "lines_lost", "count": gap, "reason": self._reason}) if gap else ""
        try:
            self._file.append((notice + "".join(batch)).encode())
        except OSError as error:
            self._lose(len(batch), error.strerror or "not written")
            return
        if gap:
            self._num_told = num_lost
            logger.warning("the access log goes on after %d lost lines", gap)

    def _lose(self, num_lines: int, reason: str) -> None:
        with self._lock:
            is_first = self.num_lost == self._num_told
            self.num_lost += num_lines
            self._reason = reason
        self._on_lost(num_lines)
        if is_first:
            logger.error("the access log loses lines: %s (%s)", reason, self._path)


def _line(fields: Mapping[str, Any]) -> str:
    row = {**fields, "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
    return json.dumps(row, default=repr) + "\n"
