"""Which of vLLM's classes a model type's weights are loaded into. Pure.

`architectures` decides in vLLM, not `model_type`: a hybrid, an encoder or an embedding model may
share its type with a decoder whose KV cache is known.

Source: vllm/model_executor/models/registry.py, vLLM 0.32.
"""

from __future__ import annotations

from serving.planner.config_fields import Fields

_DENSE = (
    "LLaMAForCausalLM", "LlamaForCausalLM", "Ministral3ForCausalLM", "MinistralForCausalLM",
    "MistralForCausalLM",
)  # fmt: skip
"""All of them read windows and heads from the same fields."""
_DEEPSEEK = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "MistralLarge3ForCausalLM")

_KNOWN = {
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "llama": _DENSE,
    "llava": ("LlavaForConditionalGeneration",),
    "ministral": _DENSE,
    "ministral3": _DENSE,
    "mistral": _DENSE,
    "mistral3": ("Mistral3ForConditionalGeneration",),
    "mixtral": ("MixtralForCausalLM",),
    "qwen2": ("Qwen2ForCausalLM",),
    "qwen3": ("Qwen3ForCausalLM",),
}


def check_architecture(fields: Fields, model_type: str) -> None:
    """Nothing, if the class is the type's own or is left open.

    Raises:
        ConfigError: it is another class, whose KV cache may be another (`model_config_unknown`).

    >>> check_architecture(Fields({"architectures": ["JambaForCausalLM"]}), "mistral")
    Traceback (most recent call last):
    serving.errors.ConfigError: architectures ['JambaForCausalLM'] is none of model_type 'mistral'
    """
    found, known = fields.get("architectures"), _KNOWN[model_type]
    if found and not (isinstance(found, list) and all(name in known for name in found)):
        raise fields.unknown("architectures", f"is none of model_type {model_type!r}", known)
