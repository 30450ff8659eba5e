"""How long an engine's steps take, attention within long prompts included. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from serving.settings.simulator import TimingSettings


@dataclass(frozen=True, slots=True)
class StepTiming:
    """A step is linear in its tokens, but for what a prompt attends to: `prompt_attention_s` are
    seconds that a token of a prompt adds for each token that it sees in every layer."""

    linear: TimingSettings
    prompt_attention_s: float = 0.0

    def with_prompts_of(self, context_tokens: float) -> TimingSettings:
        """The linear part, for prompts whose tokens see so many on average.

        >>> timing = StepTiming(TimingSettings(prefill_tokens_per_s=1000), 1e-6)
        >>> timing.with_prompts_of(1000).prefill_tokens_per_s
        500.0
        """
        token_s = 1 / self.linear.prefill_tokens_per_s + context_tokens * self.prompt_attention_s
        return self.linear.model_copy(update={"prefill_tokens_per_s": 1 / token_s})
