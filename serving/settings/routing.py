"""How gateways choose among a model's replicas."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from serving.settings.section import Section


class RoutingWeights(Section):
    """How much each reason counts for `kv_aware`; each is worth 0 to 1 for every replica.
    `serving/routing/scorers.py` says why each is there."""

    ttft: float = Field(1.0, ge=0, le=1000)
    """The shortest predicted TTFT, which is the queue and the part of the prompt to compute."""
    prefix_hit: float = Field(3.0, ge=0, le=1000)
    """The share of the prompt that the replica has cached."""
    kv_headroom: float = Field(0.5, ge=0, le=1000)
    """Room in the KV cache for prompt and answer."""
    lora: float = Field(1.0, ge=0, le=1000)
    """The request's adapter is loaded."""
    session: float = Field(0.1, ge=0, le=1000)
    """The replica is the session's own."""
    locality: float = Field(0.02, ge=0, le=1000)
    """The replica is on the gateway's node."""

    @model_validator(mode="after")
    def _has_a_reason(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("weights: at least one must be above 0")
        return self


class RoutingSettings(Section):
    """How gateways choose among a model's replicas."""

    policy: Literal[
        "kv_aware", "prefix_approx", "least_tokens", "power_of_two", "round_robin", "session"
    ] = "kv_aware"
    """`kv_aware`: by cached prefix, queue and room, as `weights` say. `prefix_approx`: the same,
    for engines that do not tell what they have cached, by what was routed to them. `least_tokens`:
    where the fewest prompt tokens and requests wait. `power_of_two`: the less loaded of two at
    random. `session`: requests of one session (`prompt_cache_key`, the header `x-session-id`, or
    `user`) go to the same replica. `round_robin`: each in turn."""
    weights: RoutingWeights = RoutingWeights()
    warm_up_s: float = Field(10.0, ge=0, le=3600)
    """For so long a new replica gets no more than a growing share of the others' load."""
