"""What a scaling decision is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

_MAX_DEMAND_FACTOR = 4.0

Number = TypeVar("Number", float, np.ndarray[Any, np.dtype[np.float64]])


@dataclass(frozen=True, slots=True)
class Signals:
    """One model's state at one moment, measured over the last half minute or so.

    Rates are per second. `sent_per_s` requests go to replicas, whose tokens the others are;
    `wanted_per_s` are those and what is refused for want of room, each counted once.
    `waiting_tokens` are prompt tokens that no engine has read yet, at replicas and in gateways
    together; `queued` the requests in gateways that no replica could take. `running` requests are
    held by replicas, those that drain included, of which `waiting` have not been begun.
    `kv_used_ratio` is the mean over the ready replicas. `late_ttft_ratio` and `long_itl_ratio` are
    the shares of first tokens and of times between tokens that missed the SLO, unless
    `has_latencies` is false. `age_s` says how old the figures are, `replicas_seen` of how many
    replicas, if that is known; `gateways_missing` is of how many gateways there are none.
    `active_classes` are the classes of tenants that have used the model lately.
    """

    at_s: float
    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    sent_per_s: float = 0.0
    wanted_per_s: float = 0.0
    waiting_tokens: float = 0.0
    queued: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    kv_used_ratio: float = 0.0
    late_ttft_ratio: float = 0.0
    long_itl_ratio: float = 0.0
    preemptions_per_s: float = 0.0
    age_s: float = 0.0
    has_latencies: bool = True
    replicas_seen: int | None = None
    gateways_missing: int = 0
    active_classes: frozenset[str] = frozenset()

    @property
    def bad_ratio(self) -> float:
        """The share of tokens that were late, by whichever measure is the worse."""
        return max(self.late_ttft_ratio, self.long_itl_ratio)

    @property
    def demand_factor(self) -> float:
        """What is asked for, as a multiple of what replicas are given.

        At most 4: not all clients say when they repeat what was refused, so how much it is is not
        known, and replicas too many go again sooner than those too few have started.

        >>> Signals(0.0, 10.0, 9.0, 9.0, sent_per_s=8.0, wanted_per_s=10.0).demand_factor
        1.25
        """
        if self.wanted_per_s <= self.sent_per_s:
            return 1.0
        if self.sent_per_s <= 0:
            return _MAX_DEMAND_FACTOR
        return min(self.wanted_per_s / self.sent_per_s, _MAX_DEMAND_FACTOR)

    @property
    def wanted_requests(self) -> float:
        """Requests that would run if there were room for all: by Little's law those that are
        refused would be as many beside those that run as come beside those that are taken in."""
        return self.running * self.demand_factor + self.queued

    def problem(self) -> str | None:
        """Why these figures cannot be true, `None` if they can.

        >>> Signals(0.0, 1.0, float("nan"), 9.0).problem()
        'prompt_tokens_per_s is nan'
        >>> Signals(0.0, 1.0, -3.0, 9.0).problem()
        'prompt_tokens_per_s is -3.0'
        >>> Signals(0.0, 1.0, 3.0, 9.0, kv_used_ratio=1.5).problem()
        'kv_used_ratio is 1.5'
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float):
                continue
            highest = 1.0 + 1e-9 if field.name.endswith("_ratio") else math.inf
            if not math.isfinite(value) or value < 0 or value > highest:
                return f"{field.name} is {value}"
        return None


@dataclass(frozen=True, slots=True)
class Replicas:
    """One model's replicas: `target` were asked for, of which `ready` take requests."""

    target: int
    ready: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What replicas can do within the SLO.

    A token of a prompt takes `prompt_token_s` of a replica, one of an answer `output_token_s`: so
    long other work has to wait for it. `usable_ratio` of a large fleet's time may be taken that
    way. Random arrivals need room beside that, `spread` replicas times the square root of those
    that are busy: a large fleet evens them out, a small one cannot.

    Source: square-root staffing; Halfin and Whitt, "Heavy-traffic limits for queues with many
    exponential servers", 1981.
    """

    prompt_token_s: float
    output_token_s: float
    usable_ratio: float
    spread: float = 0.0

    def work(self, prompt_tokens_per_s: float, output_tokens_per_s: float) -> float:
        """Replicas kept busy by so many tokens.

        >>> Capacity(0.0001, 0.001, 0.8).work(2000, 100)
        0.30000000000000004
        """
        return prompt_tokens_per_s * self.prompt_token_s + output_tokens_per_s * self.output_token_s

    def replicas_for(self, work: Number) -> Number:
        """Replicas that so many busy ones call for, of a number or of each in an array.

        >>> Capacity(0.0001, 0.001, 0.8, spread=0.5).replicas_for(4.0)
        6.0
        """
        needed: Number = work / self.usable_ratio + self.spread * work**0.5
        return needed

    def work_of(self, replicas: float) -> float:
        """How many may be busy of so many: the inverse of `replicas_for`.

        >>> Capacity(0.0001, 0.001, 0.8, spread=0.5).work_of(6.0)
        4.0
        """
        half = self.spread * self.usable_ratio / 2
        return (math.sqrt(half * half + replicas * self.usable_ratio) - half) ** 2
