"""What a step computes: the scheduler's decision, which the timer turns into seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.simulator.request import Request


@dataclass(slots=True)
class StepPlan:
    """What one forward pass computes, and the totals that its time depends on."""

    scheduled: dict[Request, int] = field(default_factory=dict)
    """The tokens that each request computes, at least 1, in the order of the batch."""
    preempted: list[Request] = field(default_factory=list)
    num_prefill_tokens: int = 0
    """Tokens of requests that compute more than one."""
    num_prefill_context_tokens: int = 0
    """For each of these tokens the tokens it attends to, itself included, added up."""
    num_decodes: int = 0
    """Requests that compute one token: generation, but also the last token of a cached prompt."""
    num_decode_context_tokens: int = 0
    """Tokens these requests attend to, added up."""

    def add_prefill(self, num_computed_tokens: int, num_new_tokens: int, *, window: int) -> None:
        """The totals count a chunk that follows `num_computed_tokens` of its sequence.

        >>> plan = StepPlan()
        >>> plan.add_prefill(2, 3, window=4)
        >>> plan.num_prefill_tokens, plan.num_prefill_context_tokens  # 3 + 4 + 4
        (3, 11)
        """
        num_growing = min(max(window - num_computed_tokens, 0), num_new_tokens)
        self.num_prefill_tokens += num_new_tokens
        self.num_prefill_context_tokens += (
            num_growing * num_computed_tokens
            + num_growing * (num_growing + 1) // 2
            + (num_new_tokens - num_growing) * window
        )

    def add_decode(self, num_computed_tokens: int, *, window: int) -> None:
        """The totals count one token that follows `num_computed_tokens` of its sequence."""
        self.num_decodes += 1
        self.num_decode_context_tokens += min(num_computed_tokens + 1, window)
