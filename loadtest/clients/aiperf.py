"""AIPerf (PyPI `aiperf`), NVIDIA's benchmark client."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.clients.base import Client, Figures, Load, Spread
from loadtest.peers.installation import ensure_environment, program

CONFIG = Path(__file__).with_name("aiperf.yaml")
_NAME = "aiperf"


def command(load: Load, folder: Path) -> Sequence[str | Path]:
    """Open loop, at a constant rate, which the configuration asks for."""
    return [
        program(_NAME, "aiperf"), "profile", "--config", CONFIG, "--url", load.url,
        "--model", load.model, "--tokenizer", load.tokenizer,
        "--synthetic-input-tokens-mean", str(load.prompt_tokens),
        "--output-tokens-mean", str(load.output_tokens),
        "--request-rate", f"{load.rate_rps:g}", "--request-count", str(load.num_requests),
        "--ui", "none", "--output-artifact-dir", folder,
    ]  # fmt: skip


def read_result(folder: Path) -> Figures:
    """From the file that it exports. What AIPerf calls inter-token latency is our TPOT, and our ITL
    its inter-chunk latency."""
    result = json.loads((folder / "profile_export_aiperf.json").read_text())
    return Figures(
        completed=int(result["request_count"]["avg"]),
        failed=sum(error["count"] for error in result["error_summary"]),
        ttft_ms=_spread(result["time_to_first_token"]),
        itl_ms=_spread(result["inter_chunk_latency"]),
        tpot_ms=_spread(result["inter_token_latency"]),
    )


def _spread(figures: Mapping[str, Any]) -> Spread:
    return Spread(*(float(figures[name]) for name in ("avg", "p50", "p99")))


CLIENT = Client(_NAME, partial(ensure_environment, _NAME, "aiperf==0.13.0"), command, read_result)
