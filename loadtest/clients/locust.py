"""Locust (PyPI `locust`) with `loadtest/locustfile.py`."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from loadtest.clients.base import CHECKOUT, Client, Figures, Load, Spread
from loadtest.peers.installation import ensure_environment, program

_NAME = "locust"
_PREFIX = "run"
_USER_PERIOD_S = 4.0
"""A user that waits longer than this for an answer is late for its next request."""


def command(load: Load, folder: Path) -> Sequence[str | Path]:
    """Closed loop: so many users that they send the load, as long as answers are in time."""
    num_users = math.ceil(load.rate_rps * _USER_PERIOD_S)
    # Users begin at random moments of their first period.
    run_time_s = math.ceil(load.num_requests / load.rate_rps + _USER_PERIOD_S / 2)
    return [
        program(_NAME, "locust"), "-f", CHECKOUT / "loadtest" / "locustfile.py", "--headless",
        "--host", load.url, "--model", load.model, "--tokenizer", load.tokenizer,
        "--prompt-tokens", str(load.prompt_tokens), "--output-tokens", str(load.output_tokens),
        "--user-rate", f"{load.rate_rps / num_users:g}",
        "--users", str(num_users), "--spawn-rate", str(num_users),
        "--run-time", f"{run_time_s}s", "--stop-timeout", "30s",
        "--only-summary", "--csv", folder / _PREFIX,
    ]  # fmt: skip


def read_result(folder: Path) -> Figures:
    """From its table of statistics."""
    with (folder / f"{_PREFIX}_stats.csv").open(newline="") as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    failed = int(rows["Aggregated"]["Failure Count"])
    return Figures(
        completed=int(rows["Aggregated"]["Request Count"]) - failed,
        failed=failed,
        ttft_ms=_spread(rows["TTFT"]),
        itl_ms=_spread(rows["ITL"]),
        tpot_ms=_spread(rows["TPOT"]),
    )


def _spread(row: Mapping[str, str]) -> Spread:
    return Spread(*(float(row[name]) for name in ("Average Response Time", "50%", "99%")))


_REQUIREMENTS = ("locust==2.47.0", "msgspec==0.22.0", "tokenizers==0.23.3")
CLIENT = Client(_NAME, partial(ensure_environment, _NAME, *_REQUIREMENTS), command, read_result)
