"""Our own: `galerne load run`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.clients.base import Client, Figures, Load, Spread
from loadtest.verdict.summary import SUMMARY_FILE, Distribution, from_json
from serving import __version__


def command(load: Load, folder: Path) -> Sequence[str | Path]:
    """Open loop, at a constant rate."""
    return [
        sys.executable, "-m", "serving", "load", "run", "--url", load.url, "--model", load.model,
        "--arrivals", f"constant:{load.rate_rps:g}",
        "--duration", f"{load.num_requests / load.rate_rps:g}",
        "--prompt-tokens", str(load.prompt_tokens), "--output-tokens", str(load.output_tokens),
        "--tokenizer", load.tokenizer, "--out", folder / "run",
    ]  # fmt: skip


def read_result(folder: Path) -> Figures:
    """From the summary that it keeps."""
    overall = from_json((folder / "run" / SUMMARY_FILE).read_bytes()).overall
    return Figures(
        completed=overall.completed,
        failed=overall.failed,
        ttft_ms=_spread(overall.ttft_ms),
        itl_ms=_spread(overall.itl_ms),
        tpot_ms=_spread(overall.tpot_ms),
    )


def _spread(found: Distribution | None) -> Spread:
    if found is None:
        raise ValueError("nothing was measured")
    return Spread(found.mean, found.p50, found.p99)


CLIENT = Client("galerne", lambda: __version__, command, read_result)
