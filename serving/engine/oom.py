"""Which process the kernel ends when memory runs out: an engine, whose replica Serve replaces."""

from __future__ import annotations

import logging
from pathlib import Path

_FIRST = 1000
"""The most there is: before any process that asks for less, however large."""

logger = logging.getLogger("ray.serve")


def be_first_victim(score_file: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Offer this process, and the children it starts from now on, before all others.

    An engine holds by far the most, and grows with what it is asked; a gateway or Serve's
    controller that is killed in its place costs every model. Raising its own score is allowed to
    every process. Source: proc_pid_oom_score_adj(5).
    """
    try:
        score_file.write_text(str(_FIRST))
    except OSError as error:  # a sandbox without /proc: the kernel chooses by size then
        logger.warning("cannot raise oom_score_adj: %s", error)
