"""How many parameters see pictures: a vision tower, and what joins it to the language model. Pure.

They have no KV cache, and text is computed without them, but they are in every GPU's memory. Biases
and position embeddings are not counted.

Source: `modeling_pixtral.py`, `modeling_mistral3.py`, `modeling_llava.py` and `modeling_clip.py` of
transformers 5.19.
"""

from __future__ import annotations

from typing import Any

from serving.planner.config_fields import MAX_LAYERS, Fields

_PIXTRAL: dict[str, Any] = {
    "model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 24, "num_channels": 3, "patch_size": 16,
}  # fmt: skip
"""Source: `PixtralVisionConfig`."""
_CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model", "hidden_size": 768, "intermediate_size": 3072,
    "num_hidden_layers": 12, "num_channels": 3, "patch_size": 32,
}  # fmt: skip
"""Source: `CLIPVisionConfig`."""
_UNSAID: dict[str, dict[str, Any]] = {
    "llava": _CLIP | {"hidden_size": 1024, "intermediate_size": 4096,
                      "num_hidden_layers": 24, "patch_size": 14},
    "mistral3": _PIXTRAL | {"patch_size": 14},
}  # fmt: skip
"""The tower where `vision_config` is left out. Source: `LlavaConfig`, `Mistral3Config`."""
_MERGED = {"mistral3": 2}
"""Patches to a side that become one, where `spatial_merge_size` is left out."""


def count_vision_parameters(fields: Fields, model_type: str, *, text_hidden_size: int) -> int:
    """The parameters besides the language model's, 0 without a tower.

    Raises:
        ConfigError: `model_config_invalid`, naming a size of the tower that is none.

    >>> count_vision_parameters(Fields({}), "mistral3", text_hidden_size=5120)
    438958080
    """
    if fields.get("vision_config") is None and model_type not in _UNSAID:
        return 0
    tower = _tower_fields(fields, model_type)
    hidden = tower.size("hidden_size")
    merged = fields.count("spatial_merge_size") or _MERGED.get(model_type, 0)
    merger = hidden * (merged**2 * hidden + 1) if merged else 0
    return _tower(tower) + merger + text_hidden_size * (hidden + text_hidden_size)


def _tower_fields(fields: Fields, model_type: str) -> Fields:
    if fields.get("vision_config") is None:
        return Fields(_UNSAID[model_type], "vision_config.")
    tower = fields.section("vision_config")
    kind = tower.get("model_type") or _UNSAID.get(model_type, _PIXTRAL)["model_type"]
    return tower.with_defaults(_PIXTRAL if kind == "pixtral" else _CLIP)


def _tower(tower: Fields) -> int:
    """Pixtral's feed-forward layers are gated, those of all others are not."""
    hidden, intermediate = tower.size("hidden_size"), tower.size("intermediate_size")
    num_matrices = 3 if tower.get("model_type") == "pixtral" else 2
    layer = 4 * hidden**2 + num_matrices * hidden * intermediate + 2 * hidden
    patches = tower.size("num_channels") * tower.size("patch_size") ** 2 * hidden
    return tower.size("num_hidden_layers", most=MAX_LAYERS) * layer + patches + hidden
