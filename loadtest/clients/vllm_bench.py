"""vLLM's own benchmark client, from the project's environment.

With vLLM's CPU build the console command `vllm` does not start: it asks for the version of the
distribution `vllm`, which has another name there. This module runs what `vllm bench serve` runs,
with the same options:

    python -m loadtest.clients.vllm_bench --backend openai-chat --base-url http://127.0.0.1:8000 …
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.clients.base import Client, Figures, Load, Spread
from loadtest.peers import bare_vllm

_RESULT_FILE = "result.json"


def command(load: Load, folder: Path) -> Sequence[str | Path]:
    """Open loop, at a constant rate; without `--burstiness` arrivals would be Poisson's."""
    return [
        sys.executable, "-m", "loadtest.clients.vllm_bench",
        "--backend", "openai-chat", "--base-url", load.url, "--endpoint", "/v1/chat/completions",
        "--model", load.model, "--tokenizer", load.tokenizer,
        "--dataset-name", "random", "--random-input-len", str(load.prompt_tokens),
        "--random-output-len", str(load.output_tokens), "--ignore-eos",
        "--num-prompts", str(load.num_requests), "--request-rate", f"{load.rate_rps:g}",
        "--burstiness", "inf", "--percentile-metrics", "ttft,tpot,itl",
        "--metric-percentiles", "50,99",
        "--save-result", "--result-dir", folder, "--result-filename", _RESULT_FILE,
    ]  # fmt: skip


def read_result(folder: Path) -> Figures:
    """From the file that it saves."""
    result = json.loads((folder / _RESULT_FILE).read_text())
    return Figures(
        completed=result["completed"],
        failed=result["failed"],
        ttft_ms=_spread(result, "ttft"),
        itl_ms=_spread(result, "itl"),
        tpot_ms=_spread(result, "tpot"),
    )


def _spread(result: Mapping[str, Any], name: str) -> Spread:
    return Spread(*(float(result[f"{figure}_{name}_ms"]) for figure in ("mean", "p50", "p99")))


CLIENT = Client(
    "vllm-bench", bare_vllm.install, command, read_result, key_variable="OPENAI_API_KEY"
)


def main() -> None:
    """`vllm bench serve`, by vLLM's own parser and function."""
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as bench_serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm bench serve")
    add_cli_args(parser)
    bench_serve(parser.parse_args())


if __name__ == "__main__":
    main()
