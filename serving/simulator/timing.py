"""How long a simulated engine step takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from serving.settings.simulator import TimingSettings
from serving.simulator.step_plan import StepPlan


@dataclass(frozen=True, slots=True)
class StepTimer:
    """A linear model of a step's seconds, with log-normal noise if the settings ask for it.

    >>> timing = TimingSettings(step_s=0.01, prefill_tokens_per_s=1000, decode_s_per_sequence=0.001,
    ...                         attention_s_per_token=0)
    >>> plan = StepPlan(num_prefill_tokens=500, num_decodes=3)
    >>> round(StepTimer(timing, Random(0)).seconds(plan), 6)  # 0.01 + 0.5 + 0.003
    0.513
    """

    timing: TimingSettings
    rng: Random

    def seconds(self, plan: StepPlan) -> float:
        """From the step's start until its tokens are known."""
        timing = self.timing
        seconds = (
            timing.step_s
            + plan.num_prefill_tokens / timing.prefill_tokens_per_s
            + plan.num_decodes * timing.decode_s_per_sequence
            + plan.num_decode_context_tokens * timing.attention_s_per_token
        )
        if timing.jitter:
            seconds *= math.exp(self.rng.gauss(0.0, timing.jitter))
        return seconds
