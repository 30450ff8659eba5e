"""One JSON line per request: who, what, how long. Never prompts, completions or keys."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog

_MAX_BYTES = 64 * 1024 * 1024
_NUM_BACKUPS = 4


class AccessLog:
    """Writes to one rotating file; a full disk loses lines, never requests."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handler = _LossyHandler(
            path, maxBytes=_MAX_BYTES, backupCount=_NUM_BACKUPS, delay=True
        )
        logger = logging.Logger("galerne.access", logging.INFO)
        logger.addHandler(self._handler)
        self._log = structlog.wrap_logger(
            logger,
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    def write(self, fields: Mapping[str, Any]) -> None:
        """Append one line."""
        self._log.info("request", **fields)

    @property
    def num_lost(self) -> int:
        """Lines that could not be written."""
        return self._handler.num_lost


class _LossyHandler(RotatingFileHandler):
    """Counts what it cannot write instead of printing a traceback for each line."""

    num_lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        del record
        self.num_lost += 1
