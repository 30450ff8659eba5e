"""The KV plan is what vLLM's own layers and arithmetic come to.

vLLM builds each model without weights (torch's meta device) and asks its attention layers for
their cache specs, which its own functions then group, count and turn into the figures it logs.
What a GPU or tensor parallelism would change of the specs is put into them here.

vLLM warns on import and changes process-wide state, so pytest runs this file as a program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from serving.adapters.model_configs import bundled_models
from serving.errors import ConfigError
from serving.planner.chunk import lengths_of
from serving.planner.engine_device import CPU, GPU
from serving.planner.kv_cache import KvOptions, kv_layout, plan_kv_cache
from serving.planner.model_config import read_model_config

GIB = 1024**3
PATTERNS = {
    "one full in six": "FSSSSS" * 5,
    "two thirds slide": "FSS" * 10,
    "halves, nearly": "FS" * 14 + "SS",
    "a rare full layer": "S" * 29 + "F",
    "uneven groups": "F" * 8 + "S" * 22,
}
"""Layers of the demo model that attend to everything, and that slide."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
}  # fmt: skip


class Case(NamedTuple):
    """One start of an engine."""

    model: str
    device: str
    block_size: int | None
    kv_dtype: str
    tensor_parallel_size: int
    chunk_tokens: int
    max_model_len: int
    kv_bytes: int


def cases() -> Iterator[Case]:
    """Every model in several caches, each with chunks and lengths from small to large."""
    models = [*bundled_models(), *PATTERNS]
    caches = [
        ("cpu", None, "auto", 1), ("cpu", 64, "fp8", 1),
        ("gpu", 16, "auto", 1), ("gpu", 64, "fp8", 1), ("gpu", 32, "bfloat16", 4),
    ]  # fmt: skip
    runs = [(256, 4096, 3 * GIB), (1000, 8191, 7 * GIB + 12345), (2048, 300, GIB)]
    for model, (device, block_size, kv_dtype, tp), run in product(models, caches, runs):
        if tp == 1 or model not in ("demo", *PATTERNS):  # nine heads cannot be shared by four
            yield Case(model, device, block_size, kv_dtype, tp, *run)


@cache
def config_of(model: str) -> Mapping[str, Any]:
    """The model's config.json; of one that also sees, the language model's, because building its
    vision tower takes packages that text needs not. Weights are of 16 bits: vLLM has no kernel for
    others on every CPU, and the KV cache does not depend on them."""
    name = "demo" if model in PATTERNS else model
    path = resources.files("serving") / "planner" / "models" / f"{name}.json"
    config = json.loads(path.read_text("utf-8"))
    del config["source"]
    config.pop("quantization_config", None)
    if pattern := PATTERNS.get(model):
        kinds = {"F": "full_attention", "S": "sliding_attention"}
        config["layer_types"] = [kinds[letter] for letter in pattern]
    if text := config.get("text_config"):
        config = {"architectures": ["MistralForCausalLM"], **text}
    return config


def ours(case: Case) -> list[float]:
    model, device = read_model_config(config_of(case.model)), {"cpu": CPU, "gpu": GPU}[case.device]
    options = KvOptions(
        case.block_size, case.kv_dtype, tensor_parallel_size=case.tensor_parallel_size
    )
    lengths = lengths_of(case.max_model_len, case.chunk_tokens, device=device)
    plan = plan_kv_cache(kv_layout(model, options, device=device), lengths, kv_bytes=case.kv_bytes)
    return [plan.bytes_per_block, plan.num_blocks, plan.kv_cache_tokens, plan.max_concurrency]


class Vllm:
    """vLLM's side of the comparison."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[str, dict[str, Any]] = {}
        self._asked: dict[tuple[str, int | None], tuple[Any, dict[str, Any]]] = {}

    def figures(self, case: Case) -> list[float]:
        from vllm.v1.core.kv_cache_utils import (
            get_kv_cache_capacity,
            get_kv_cache_configs,
        )

        config, specs = self._layers(case.model, case.block_size)
        config.model_config.max_model_len = case.max_model_len
        config.scheduler_config.max_num_batched_tokens = case.chunk_tokens
        config.scheduler_config.async_scheduling = case.device == "gpu"
        changed = {name: self._spec(spec, case, config) for name, spec in specs.items()}
        (cache,) = get_kv_cache_configs(config, [changed], [case.kv_bytes])
        num_tokens, concurrency = get_kv_cache_capacity(config, cache)
        sizes = {tensor.size // cache.num_blocks for tensor in cache.kv_cache_tensors}
        return [sizes.pop(), cache.num_blocks, num_tokens, concurrency]

    def _layers(self, model: str, block_size: int | None) -> tuple[Any, dict[str, Any]]:
        """The configuration with these blocks, and what the model's layers ask for under it."""
        if (model, block_size) not in self._asked:
            config = self._config(model, block_size)
            if model not in self._models:
                self._models[model] = self._build(config)
            found = {
                name: layer.get_kv_cache_spec(config) for name, layer in self._models[model].items()
            }
            self._asked[model, block_size] = config, found
        return self._asked[model, block_size]

    def _build(self, config: Any) -> dict[str, Any]:
        """The attention layers of a model, which takes most of the time."""
        import torch
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
        from vllm.model_executor.model_loader.utils import initialize_model
        from vllm.utils.torch_utils import set_default_torch_dtype

        with set_current_vllm_config(config):
            self._join_group()
            with set_default_torch_dtype(config.model_config.dtype), torch.device("meta"):
                initialize_model(vllm_config=config, model_config=config.model_config)
        layers = config.compilation_config.static_forward_context
        return {n: each for n, each in layers.items() if isinstance(each, AttentionLayerBase)}

    def _config(self, model: str, block_size: int | None) -> Any:
        from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
        from vllm.v1.kv_cache_layout import KVCacheLayout

        folder = self._folder / model
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config_of(model)))
        built = ModelConfig(
            model=str(folder), tokenizer=str(folder), skip_tokenizer_init=True, max_model_len=4096
        )
        kinds = set(getattr(built.hf_text_config, "layer_types", None) or ())
        is_mixed = len(kinds) > 1
        options = {} if block_size is None else {"block_size": block_size}
        config = VllmConfig(
            model_config=built,
            scheduler_config=SchedulerConfig(max_model_len=4096, is_encoder_decoder=False),
            cache_config=CacheConfig(
                sliding_window=None if is_mixed else built.get_sliding_window(), **options
            ),
            device_config=DeviceConfig("cpu"),
        )
        config.cache_config.kv_cache_layout = KVCacheLayout.LBHNC.name
        return config

    def _join_group(self) -> None:
        from torch import distributed
        from vllm.distributed import init_distributed_environment, initialize_model_parallel

        if not distributed.is_initialized():
            init_distributed_environment(
                1, 0, f"file://{self._folder}/group", local_rank=0, backend="gloo"
            )
            initialize_model_parallel(1, 1)

    def _spec(self, spec: Any, case: Case, config: Any) -> Any:
        """A layer's spec on the case's device."""
        import torch
        from vllm.v1.kv_cache_interface import KVQuantMode

        parallel = SimpleNamespace(tensor_parallel_size=case.tensor_parallel_size)
        changes: dict[str, Any] = {"num_kv_heads": config.model_config.get_num_kv_heads(parallel)}
        if case.device == "gpu":
            changes["block_size"] = case.block_size
        if case.kv_dtype == "fp8":
            changes |= {"dtype": torch.uint8, "kv_quant_mode": KVQuantMode.FP8_PER_TENSOR}
        return replace(spec, **changes)


def main(folder: str) -> None:
    """Print both sides of every case."""
    theirs = Vllm(Path(folder))
    # The first model decides whether there is a group for experts.
    ordered = sorted(cases(), key=lambda case: case.model != "mixtral-8x7b-v0.1")
    rows = [(case, ours(case), theirs.figures(case)) for case in ordered]
    print("RESULT" + json.dumps(rows))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed, so there is nothing to compare the plan with")
    result = subprocess.run(
        [sys.executable, __file__, str(tmp_path_factory.mktemp("models"))],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, result.stderr[-4000:]
    parsed: list[Any] = json.loads(lines[-1].removeprefix("RESULT"))
    return parsed


@pytest.mark.parametrize("model", [*bundled_models(), *PATTERNS])
def test_all_four_figures_are_vllms(rows: list[Any], model: str) -> None:
    compared = [row for row in rows if row[0][0] == model]
    assert len(compared) >= 12
    for case, planned, told in compared:
        assert planned == told, Case(*case)


def test_what_vllm_would_not_start_is_refused() -> None:
    case = Case("mistral-7b-v0.3", "gpu", 16, "auto", 1, 2048, 32768, 4 * GIB)
    with pytest.raises(ConfigError, match="one sequence"):
        ours(case)


if __name__ == "__main__":
    main(sys.argv[1])
