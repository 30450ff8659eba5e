"""A trace on so many replicas of one kind: what clients saw, and how full the replicas were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.lab.demand import Demand
from serving.lab.fleet import Room, Slo, VirtualFleet, make_rules
from serving.lab.replay import GAP_BIN_RATIO, SHORTEST_GAP_S, Floats, Ints, Rules
from serving.lab.scaling import goodput_ratio
from serving.planner.replica_plan import ReplicaPlan

_NUM_LOOKS = 200
_TAIL_S = 600.0


@dataclass(frozen=True, slots=True)
class Observation:
    """Latencies over the whole trace: TTFT of all requests, ITL of all times between two tokens.

    `late_ratio` and `long_ratio` are the shares of them beyond the SLO. `goodput_rps` counts
    requests whose TTFT and mean ITL both were good. `kv_used_ratio` and `running` are of a replica,
    on average over the trace, `kv_peak_ratio` of the fullest at any of 200 looks, `peak_running`
    the most sequences that ran on one.
    """

    num_replicas: int
    ttft_p50_s: float
    ttft_p99_s: float
    itl_p50_s: float
    itl_p99_s: float
    late_ratio: float
    long_ratio: float
    goodput_rps: float
    kv_used_ratio: float
    kv_peak_ratio: float
    running: float
    peak_running: int

    def keeps(self, slo: Slo) -> bool:
        """Whether enough first tokens and enough times between tokens were good."""
        allowed = 1.0 - slo.ratio + 1e-9
        return self.late_ratio <= allowed and self.long_ratio <= allowed


def replica_rules(plan: ReplicaPlan, slo: Slo) -> Rules:
    """How replicas of that plan behave in the laboratory.

    Their KV cache is counted in tokens of all groups of layers. Layers with a window hold as much
    of a long sequence as vLLM plans for: the window, and what is in flight.
    """
    groups = plan.layout.groups
    block_size = groups[0].block_size
    room = Room(
        max_batched_tokens=plan.shape.max_num_batched_tokens,
        max_sequences=plan.shape.max_num_seqs,
        kv_tokens=(plan.kv.num_blocks - 1) * block_size // len(groups),
    )
    windowed = [group for group in groups if group.window is not None]
    if windowed:
        num_full = len(groups) - len(windowed)
        room = Room(
            room.max_batched_tokens,
            room.max_sequences,
            room.kv_tokens,
            window_tokens=windowed[0].window or 0,
            held_window_tokens=windowed[0].blocks_per_sequence(plan.lengths) * block_size,
            full_ratio=num_full / len(groups),
        )
    timing = plan.timing
    return make_rules(timing.linear, room, slo, prompt_attention_s=timing.prompt_attention_s)


def observe_trace(demand: Demand, rules: Rules, slo: Slo, *, num_replicas: int) -> Observation:
    """Replay the demand on so many replicas that are there from beginning to end.

    Requests that have no first token ten minutes after the last one came are late by infinity.
    """
    fleet = VirtualFleet(
        demand,
        rules,
        cold_start_s=0.0,
        num_ready=num_replicas,
        max_replicas=num_replicas,
        tail_s=_TAIL_S,
    )
    kv_used, running = _look(fleet)
    fleet.advance(demand.span_s + _TAIL_S)
    requests, gaps = fleet.state.requests, fleet.state.gap_histogram
    ttft_s = requests.first_token_s - requests.at_s
    return Observation(
        num_replicas=num_replicas,
        ttft_p50_s=float(np.quantile(ttft_s, 0.5, method="higher")),
        ttft_p99_s=float(np.quantile(ttft_s, 0.99, method="higher")),
        itl_p50_s=gap_quantile(gaps, 0.5),
        itl_p99_s=gap_quantile(gaps, 0.99),
        late_ratio=float((ttft_s > slo.longest_ttft_s).mean()),
        long_ratio=int(fleet.state.counts.long_gaps.sum()) / max(int(gaps.sum()), 1),
        goodput_rps=goodput_ratio(fleet, slo) * demand.at_s.size / demand.span_s,
        kv_used_ratio=float(kv_used.mean()),
        kv_peak_ratio=float(kv_used.max()),
        running=float(running.mean()),
        peak_running=int(fleet.state.replicas.peak_running.max()),
    )


def gap_quantile(histogram: Ints, q: float) -> float:
    """Seconds that a share `q` of the times between two tokens do not exceed, at most 2 % too many;
    0 where there are none.

    >>> gap_quantile(np.array([3, 1, 0]), 0.75)
    0.0001
    """
    total = int(histogram.sum())
    if not total:
        return 0.0
    number = int(np.searchsorted(np.cumsum(histogram), q * total))
    return float(SHORTEST_GAP_S * GAP_BIN_RATIO**number)


def _look(fleet: VirtualFleet) -> tuple[Floats, Floats]:
    """[looks, replicas]: shares of the KV cache in use, and sequences that run."""
    used, running = [], []
    for until_s in np.linspace(0.0, fleet.demand.span_s, _NUM_LOOKS + 1)[1:]:
        fleet.advance(float(until_s))
        replicas = fleet.state.replicas
        used.append(replicas.reserved_tokens / fleet.rules.kv_tokens)
        running.append(replicas.num_running.astype(float))
    return np.minimum(np.array(used), 1.0), np.array(running)
