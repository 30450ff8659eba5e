"""Replicas without a model: how long they take, and what they answer."""

from __future__ import annotations

from pydantic import Field

from serving.settings.section import Section


class TimingSettings(Section):
    """How long a simulated engine step takes, as a linear model of what the step computes.

    `step_s + prefill_tokens / prefill_tokens_per_s + sequences * decode_s_per_sequence +
    context_tokens * attention_s_per_token`. `galerne sim calibrate` measures these on an engine.
    The defaults are of the order of a 7B model on one data-centre GPU.
    """

    step_s: float = Field(0.008, ge=0, le=60)
    """Seconds per step, whatever it computes: reading the weights, scheduling, launching. An engine
    whose steps take longer than `engine.hang_timeout_s` counts as hung, and is replaced."""
    prefill_tokens_per_s: float = Field(20_000.0, gt=0)
    """Prompt tokens computed per second, beside the seconds per step."""
    decode_s_per_sequence: float = Field(0.00005, ge=0, le=60)
    """Seconds per sequence that generates a token in the step."""
    attention_s_per_token: float = Field(2e-8, ge=0, le=1)
    """Seconds per token that a generating sequence attends to; a sliding window bounds them."""
    overhead_s: float = Field(0.002, ge=0, le=60)
    """Seconds between a request's arrival and its first step: parsing, tokenizing."""
    jitter: float = Field(0.0, ge=0, le=2)
    """Standard deviation of the logarithm of a step's seconds."""


class SimulatorSettings(Section):
    """An engine replica that keeps vLLM's rules and accounts but has no model: it waits as long as
    the timing says and answers with made-up words. For trying, sizing and testing fleets."""

    timing: TimingSettings = TimingSettings()
    kv_blocks: int = Field(4096, ge=2, le=10_000_000)
    """KV blocks of the simulated cache, vLLM's null block included."""
    sliding_window: int | None = Field(None, ge=1)
    """Attention window in tokens; `None` is full attention."""
    answer_tokens: int = Field(128, ge=1)
    """Mean length of an answer that no `max_tokens` cuts short and no `ignore_eos` prolongs."""
    start_s: float = Field(1.0, ge=0, le=3600)
    """Seconds a replica takes to become ready: image, weights, warm-up."""
    seed: int = Field(0, ge=0)
    """The same seed and the same requests give the same answers and, step by step, the same
    times."""
