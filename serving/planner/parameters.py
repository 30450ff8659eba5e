"""How many parameters a model has, and how many of them a token meets. Pure.

Norms are counted, biases are not: they are fewer than one in ten thousand.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.planner.model_config import Experts, Latent, ModelConfig


@dataclass(frozen=True, slots=True)
class Parameters:
    """Counts. `layers` of all layers, `active_layers` of those parts of them that compute one
    token, `embedding` of the table of tokens; an output layer of its own, if there is one, has as
    many. `vision` sees pictures, and no token of text."""

    layers: int
    active_layers: int
    embedding: int
    has_own_head: bool
    vision: int = 0

    @property
    def total(self) -> int:
        """All that is in memory."""
        return self.layers + self.embedding * (2 if self.has_own_head else 1) + self.vision

    @property
    def active(self) -> int:
        """What a token meets, as models' names count it."""
        return self.total - self.layers + self.active_layers - self.vision


def count_parameters(model: ModelConfig) -> Parameters:
    """The parameters of a decoder with gated feed-forward layers.

    >>> from serving.planner.model_config import read_model_config
    >>> mistral_7b = read_model_config({
    ...     "model_type": "mistral", "num_hidden_layers": 32, "num_attention_heads": 32,
    ...     "num_key_value_heads": 8, "hidden_size": 4096, "intermediate_size": 14336,
    ...     "vocab_size": 32000, "max_position_embeddings": 32768,
    ... })
    >>> count_parameters(mistral_7b).total
    7241732096
    """
    hidden = model.hidden_size
    feed_forward = _gated(hidden, model.intermediate_size)
    num_dense, sparse, sparse_active = model.num_layers, 0, 0
    if model.experts:
        num_dense = model.experts.num_dense_layers
        sparse, sparse_active = _expert_layer(hidden, model.experts)
    num_sparse = model.num_layers - num_dense
    shared = model.num_layers * (_attention(model) + 2 * hidden) + hidden
    shared += num_dense * feed_forward
    return Parameters(
        layers=shared + num_sparse * sparse,
        active_layers=shared + num_sparse * sparse_active,
        embedding=model.vocab_size * hidden,
        has_own_head=not model.tie_embeddings,
        vision=model.vision_parameters,
    )


def _attention(model: ModelConfig) -> int:
    if model.latent is not None:
        return _latent_attention(model, model.latent)
    queries = model.num_heads * model.head_size
    keys = model.num_kv_heads * model.head_size
    return model.hidden_size * 2 * (queries + keys)


def _latent_attention(model: ModelConfig, latent: Latent) -> int:
    """Source: `DeepseekV3Attention` in transformers 5.19."""
    hidden, heads, rank = model.hidden_size, model.num_heads, latent.kv_lora_rank
    queries = heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
    if latent.q_lora_rank is None:
        to_queries = hidden * queries
    else:
        to_queries = latent.q_lora_rank * (hidden + queries + 1)
    to_latent = hidden * latent.head_size + rank
    from_latent = rank * heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    return to_queries + to_latent + from_latent + heads * latent.v_head_dim * hidden


def _expert_layer(hidden: int, experts: Experts) -> tuple[int, int]:
    """Of a layer's experts and their router: in memory, and for one token."""
    one = _gated(hidden, experts.intermediate_size)
    always = hidden * experts.num_routed + experts.num_shared * one
    return always + experts.num_routed * one, always + experts.num_active * one


def _gated(hidden: int, intermediate: int) -> int:
    return 3 * hidden * intermediate
