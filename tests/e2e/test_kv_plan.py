"""`galerne plan kv` says of the demo model what vLLM's engine says of it when it starts.

The engine starts with every configuration in turn: it builds the real model on CPU with made-up
weights, allocates its cache and logs its size. Two processes of one thread each share the
configurations, and each pays only once for imports, which take longest.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

GIB = 1024**3
MIXED = ["full_attention", "sliding_attention", "sliding_attention"] * 10
CASES: list[dict[str, Any]] = [
    {"window": 512, "chunk": 256, "length": 4096, "bytes": GIB},
    {"window": 512, "chunk": 2048, "length": 4096, "bytes": GIB},
    {"window": 512, "chunk": 4096, "length": 4096, "bytes": GIB},
    {"window": 512, "chunk": 256, "length": 8192, "bytes": GIB // 2},
    {"window": 512, "chunk": 64, "length": 1024, "bytes": GIB // 4},
    {"window": 1024, "chunk": 512, "length": 4096, "bytes": 300_000_000},
    {"window": 1000, "chunk": 1000, "length": 5000, "bytes": 700_000_001},
    {"window": None, "chunk": 256, "length": 4096, "bytes": GIB // 2},
    {"window": None, "chunk": 2048, "length": 777, "bytes": GIB // 4},
    {"window": 512, "chunk": 512, "length": 4096, "bytes": GIB // 4, "prefix_caching": False},
    {"window": 512, "chunk": 256, "length": 4096, "bytes": GIB // 4, "kv_dtype": "fp8"},
    {"window": 512, "chunk": 256, "length": 3000, "bytes": GIB // 2, "block_size": 48},
    {"window": 512, "chunk": 256, "length": 4096, "bytes": GIB // 2, "layer_types": MIXED},
]
NUM_PROCESSES = 2
_LOGGED = re.compile(
    r"KV cache size: ([\d,]+) tokens, "
    r"Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x"
)
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_COLOR": "0",
}  # fmt: skip


def config_of(case: dict[str, Any]) -> dict[str, Any]:
    """What of the demo model's config.json the case changes."""
    changed = {"sliding_window": case["window"]}
    return changed | ({"layer_types": case["layer_types"]} if "layer_types" in case else {})


def start_engine(model: str, case: dict[str, Any]) -> int:
    """Start vLLM's engine, which logs the size of its cache, and stop it; its number of blocks."""
    from vllm import LLM

    llm = LLM(
        model,
        load_format="dummy",
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="bfloat16",
        hf_overrides=config_of(case),
        max_model_len=case["length"],
        max_num_batched_tokens=case["chunk"],
        max_num_seqs=8,
        kv_cache_memory_bytes=case["bytes"],
        kv_cache_dtype=case.get("kv_dtype", "auto"),
        enable_prefix_caching=case.get("prefix_caching", True),
        block_size=case.get("block_size"),
    )
    num_blocks = int(llm.llm_engine.vllm_config.cache_config.num_gpu_blocks)
    llm.llm_engine.engine_core.shutdown()
    return num_blocks


def main(model: str, first: int) -> None:
    """Start the engine for one process' share of the cases."""
    import vllm  # noqa: F401 (its imports are no garbage, and most of what there is)

    for index in range(first, len(CASES), NUM_PROCESSES):
        # vLLM collects garbage seven times per start, which takes half of it if imports count.
        gc.collect()
        gc.freeze()
        print(f"CASE {index}", flush=True)
        print(f"BLOCKS {start_engine(model, CASES[index])}", flush=True)


@pytest.fixture(scope="module")
def demo() -> str:
    words = [sys.executable, "-m", "serving", "model", "path"]
    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=240)
    return told.stdout.strip()


@pytest.fixture(scope="module")
def logs(demo: str) -> dict[int, str]:
    """What the engine has said in each case."""
    with ThreadPoolExecutor(NUM_PROCESSES) as pool:
        said = [*pool.map(partial(run_share, demo), range(NUM_PROCESSES))]
    found = {index: text for share in said for index, text in share.items()}
    assert found.keys() == set(range(len(CASES)))
    return found


def run_share(demo: str, first: int) -> dict[int, str]:
    """What the engine says in the cases of one process."""
    result = subprocess.run(
        [sys.executable, __file__, demo, str(first)],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-4000:]
    _, *parts = re.split(r"^CASE (\d+)$", result.stdout, flags=re.MULTILINE)
    return {int(index): text for index, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("index", range(len(CASES)))
def test_the_plan_is_what_the_engine_logs(
    logs: dict[int, str], demo: str, tmp_path: Path, index: int
) -> None:
    case = CASES[index]
    logged = _LOGGED.findall(logs[index])
    blocks = re.findall(r"^BLOCKS (\d+)$", logs[index], flags=re.MULTILINE)
    assert len(logged) == len(blocks) == 1, logs[index]
    num_tokens, length, concurrency = logged[0]

    plan = planned(case, demo, tmp_path)

    assert int(length.replace(",", "")) == case["length"]
    assert plan["kv_cache_tokens"] == int(num_tokens.replace(",", ""))
    assert plan["max_concurrency"] == float(concurrency)
    assert plan["num_blocks"] == int(blocks[0])


def planned(case: dict[str, Any], demo: str, folder: Path) -> dict[str, Any]:
    """What `galerne plan kv` prints."""
    from serving.cli.main import app

    config = json.loads(Path(demo, "config.json").read_text()) | config_of(case)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    words = [
        "plan", "kv", "--config", str(path), "--json", "--kv-bytes", str(case["bytes"]),
        "--max-model-len", str(case["length"]), "--chunk-tokens", str(case["chunk"]),
        "--kv-dtype", case.get("kv_dtype", "auto"),
    ]  # fmt: skip
    if "block_size" in case:
        words += ["--block-size", str(case["block_size"])]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.exception
    document: dict[str, Any] = json.loads(told.stdout)
    return document


def test_the_bundled_demo_is_the_one_that_is_built(demo: str) -> None:
    from serving.adapters.model_configs import load_model_config

    assert load_model_config("demo") == load_model_config(demo)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
