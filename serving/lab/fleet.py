"""A fleet in virtual time: replicas that are ordered, start, serve, drain and go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.errors import ConfigError
from serving.lab.demand import Demand
from serving.lab.replay import (
    ABSENT,
    DRAINING,
    NONE,
    NUM_GAP_BINS,
    READY,
    STARTING,
    Counts,
    Replicas,
    Requests,
    Rules,
    State,
    advance,
)
from serving.settings.model import ModelSettings
from serving.settings.simulator import TimingSettings
from serving.simulator.launch import scheduler_config

UNBOUNDED = 1 << 40
"""Tokens of a window where there is none."""

_BACKLOG_S = 60.0
"""A queue that takes longer to drain counts as one that does not."""


@dataclass(frozen=True, slots=True)
class Slo:
    """`ttft_s` and `itl_s` are the longest good TTFT and time between two tokens, infinite for no
    limit; `ratio` of them are to be good, in every window of `window_s`."""

    ttft_s: float = 2.0
    itl_s: float = 0.08
    ratio: float = 0.99
    window_s: float = 10.0

    @property
    def longest_ttft_s(self) -> float:
        """`ttft_s`, or what takes its place where that is no limit: whoever asks for nothing but
        quick tokens still wants to be answered.

        >>> Slo(ttft_s=math.inf).longest_ttft_s
        60.0
        """
        return _BACKLOG_S if math.isinf(self.ttft_s) else self.ttft_s


@dataclass(frozen=True, slots=True)
class Room:
    """What a replica's step and its KV cache hold, as `Rules` names it."""

    max_batched_tokens: int
    max_sequences: int
    kv_tokens: int
    window_tokens: int = UNBOUNDED
    held_window_tokens: int = UNBOUNDED
    full_ratio: float = 0.0


def rules_of(model: ModelSettings, slo: Slo) -> Rules:
    """How the replicas of a model with these settings behave.

    Raises:
        ConfigError: the model is not simulated, or a sequence of `max_model_len` tokens would not
            fit the KV cache.
    """
    simulator = model.simulator
    if simulator is None:
        raise ConfigError("the model is not simulated", code="simulator_missing", param="--set")
    limits = scheduler_config(model, simulator)
    cache = limits.kv_cache
    room = Room(
        max_batched_tokens=limits.max_num_batched_tokens,
        max_sequences=limits.max_num_seqs,
        kv_tokens=(cache.num_blocks - 1) * cache.block_size,
        window_tokens=cache.sliding_window or UNBOUNDED,
        held_window_tokens=cache.sliding_window or UNBOUNDED,
    )
    return make_rules(simulator.timing, room, slo)


def make_rules(
    timing: TimingSettings, room: Room, slo: Slo, *, prompt_attention_s: float = 0.0
) -> Rules:
    """How replicas behave that take so long and have so much room. `prompt_attention_s` is as
    `Rules` has it; simulated engines know nothing of it."""
    return Rules(
        step_s=timing.step_s,
        prefill_s_per_token=1 / timing.prefill_tokens_per_s,
        prompt_attention_s=prompt_attention_s,
        decode_s_per_sequence=timing.decode_s_per_sequence,
        attention_s_per_token=timing.attention_s_per_token,
        overhead_s=timing.overhead_s,
        max_batched_tokens=room.max_batched_tokens,
        max_sequences=room.max_sequences,
        kv_tokens=room.kv_tokens,
        window_tokens=room.window_tokens,
        held_window_tokens=room.held_window_tokens,
        full_ratio=room.full_ratio,
        good_ttft_s=slo.ttft_s,
        good_itl_s=slo.itl_s,
        window_s=slo.window_s,
    )


@dataclass(frozen=True, slots=True)
class Census:
    """Replicas by what they do."""

    starting: int
    ready: int
    draining: int


class VirtualFleet:
    """Replicas that serve a demand.

    Args:
        demand: what is asked of them.
        rules: how they behave.
        cold_start_s: from a replica's order until it is ready.
        num_ready: replicas that are ready from the beginning.
        max_replicas: at most as many at once, those included that drain.
        tail_s: time after the last request that is told apart from what comes later.
    """

    def __init__(
        self,
        demand: Demand,
        rules: Rules,
        *,
        cold_start_s: float,
        num_ready: int,
        max_replicas: int,
        tail_s: float = 600.0,
    ) -> None:
        self.demand = demand
        self.rules = rules
        self.now_s = 0.0
        self.replica_s = 0.0
        """Seconds of replicas so far, from their order until they are gone."""
        self._cold_start_s = cold_start_s
        num_windows = math.ceil((demand.span_s + tail_s) / rules.window_s)
        ring = int(demand.output_tokens.max(initial=1)) + 1
        self.state = State(
            _requests(demand),
            _replicas(max_replicas, ring),
            Counts(*(np.zeros(num_windows, dtype=np.int64) for _ in Counts._fields)),
            np.zeros(NUM_GAP_BINS, dtype=np.int64),
            np.array([0, NONE, NONE], dtype=np.int64),
        )
        self.state.replicas.phase[:num_ready] = READY

    def advance(self, until_s: float) -> None:
        """Let the time pass."""
        held = int((self.state.replicas.phase != ABSENT).sum())
        advance(self.state, self.rules, until_s)
        still_held = int((self.state.replicas.phase != ABSENT).sum())
        # Those that went did so in between.
        self.replica_s += (held + still_held) / 2 * (until_s - self.now_s)
        self.now_s = until_s

    def census(self) -> Census:
        """How many replicas do what."""
        phase = self.state.replicas.phase
        return Census(*(int((phase == one).sum()) for one in (STARTING, READY, DRAINING)))

    def scale(self, target: int) -> None:
        """Order replicas, or let some go: those that start first, then those with the least to do.

        One that drains does not come back.
        """
        replicas = self.state.replicas
        census = self.census()
        change = target - census.starting - census.ready
        if change > 0:
            for replica in np.flatnonzero(replicas.phase == ABSENT)[:change]:
                replicas.phase[replica] = STARTING
                replicas.ready_s[replica] = self.now_s + self._cold_start_s
            return
        starting = np.flatnonzero(replicas.phase == STARTING)
        cancelled = starting[np.argsort(-replicas.ready_s[starting])][: -change or 0]
        replicas.phase[cancelled] = ABSENT
        ready = np.flatnonzero(replicas.phase == READY)
        idlest = ready[np.argsort(replicas.num_running[ready], kind="stable")]
        replicas.phase[idlest[: -change - cancelled.size]] = DRAINING

    @property
    def num_waiting_for_any(self) -> int:
        """Requests that no replica could take."""
        number, request = 0, int(self.state.cursor[1])
        while request != NONE:
            number += 1
            request = int(self.state.requests.next[request])
        return number


def _requests(demand: Demand) -> Requests:
    size = demand.at_s.size
    return Requests(
        demand.at_s,
        demand.prompt_tokens,
        demand.output_tokens,
        np.full(size, np.inf),
        np.full(size, np.inf),
        np.full(size, NONE, dtype=np.int64),
    )


def _replicas(number: int, ring: int) -> Replicas:
    arrays: dict[str, Any] = {
        name: np.zeros(number, dtype=np.int64) for name in Replicas._fields
    } | {
        "ready_s": np.zeros(number),
        "clock_s": np.zeros(number),
        "head": np.full(number, NONE, dtype=np.int64),
        "tail": np.full(number, NONE, dtype=np.int64),
        "ending": np.full((number, ring), NONE, dtype=np.int64),
    }
    return Replicas(**arrays)
