"""A LoRA adapter for the demo model, made of noise: enough to see that it is applied."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ADAPTER = "demo-lora"

_NUM_LAYERS = 30
_HIDDEN_SIZE = 576
_RANK = 8
_NOISE = 0.2


def write_adapter(folder: Path) -> Path:
    """`folder`, now an adapter in PEFT's format over every layer's output projection."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "demo",
        "r": _RANK,
        "lora_alpha": _RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["o_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(_NUM_LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
        tensors[f"{name}.lora_A.weight"] = _noise(rng, _RANK, _HIDDEN_SIZE)
        tensors[f"{name}.lora_B.weight"] = _noise(rng, _HIDDEN_SIZE, _RANK)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (_NOISE * rng.standard_normal(shape)).astype(np.float32)
