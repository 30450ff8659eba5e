"""What a token computes for each token that it attends to in every layer. Pure."""

from __future__ import annotations

from serving.planner.model_config import Latent, ModelConfig


def prompt_attention_flops(model: ModelConfig, chunk_tokens: int) -> float:
    """Operations of a token of a prompt: a product with the key, and one with the value.

    Latent vectors are expanded to keys and values of every head, those of the tokens before a chunk
    anew for each chunk.

    Source: `forward_mha` and `_compute_prefill_context` in
    vllm/model_executor/layers/attention/mla_attention.py, vLLM 0.32.
    """
    if (latent := model.latent) is None:
        return answer_attention_flops(model)
    key = latent.qk_nope_head_dim + latent.qk_rope_head_dim
    attended = 2.0 * model.num_heads * (key + latent.v_head_dim)
    return model.num_layers * (attended + _expansion_flops(model, latent) / chunk_tokens)


def answer_attention_flops(model: ModelConfig) -> float:
    """Operations of a token of an answer, which attends to latent vectors as they are cached: all
    of one as the key, and all but the rotated part as the value.

    Source: `forward_mqa`, ibid.
    """
    value = model.latent.kv_lora_rank if model.latent else model.head_size
    return 2.0 * model.num_layers * model.num_heads * (model.head_size + value)


def _expansion_flops(model: ModelConfig, latent: Latent) -> float:
    """Of one latent vector, in one layer."""
    expanded = model.num_heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    return 2.0 * latent.kv_lora_rank * expanded
