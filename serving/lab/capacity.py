"""What one replica can do within the SLO: measured on virtual replicas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.errors import ConfigError
from serving.lab.demand import Demand
from serving.lab.fleet import Slo, VirtualFleet
from serving.lab.replay import Rules
from serving.lab.scaling import Setting, violation_s
from serving.scaling.signals import Capacity

_SMALL, _LARGE = 2, 16
_SPAN_S = 1200.0
_NUM_HALVINGS = 7
_ALLOWED_VIOLATION = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """A replica's capacity, and the requests it has in flight when it is used up to that."""

    capacity: Capacity
    in_flight: float


def measure(demand: Demand, rules: Rules, slo: Slo, *, seed: int = 0) -> Measured:
    """The capacity of replicas for requests of these lengths that arrive at random.

    The greatest rate at which a fleet keeps the SLO in nearly every window is found by halving, for
    a small fleet and a large one.

    Args:
        demand: whose lengths are drawn from; its times do not matter.
        seed: of the arrivals.

    Raises:
        ConfigError: no replica can keep the SLO.
    """
    attended = np.minimum(
        demand.prompt_tokens + demand.output_tokens // 2, rules.window_tokens
    ).mean()
    per_output_token_s = rules.decode_s_per_sequence + float(attended) * rules.attention_s_per_token
    work_s = float(demand.work_s(rules.prefill_s_per_token, per_output_token_s).mean())

    def highest(num_replicas: int) -> tuple[float, float]:
        """Busy replicas of so many, and the requests that each has in flight then."""
        low, high, in_flight = 0.0, float(num_replicas), 1.0
        for _ in range(_NUM_HALVINGS):
            middle = (low + high) / 2
            steady = _at_random(demand, middle / work_s, np.random.default_rng(seed))
            tried = _try(steady, num_replicas, rules, slo)
            if tried[0] <= _ALLOWED_VIOLATION:
                low, in_flight = middle, tried[1]
            else:
                high = middle
        return low, in_flight

    small, _ = highest(_SMALL)
    large, in_flight = highest(_LARGE)
    if not (small and large):
        raise ConfigError(
            "a replica cannot keep the SLO even for one request at a time",
            code="slo_unreachable",
            hint="raise --ttft-s or --itl-s, or lower engine.max_num_batched_tokens",
        )
    # Two fleets, two unknowns: replicas = work / usable + spread * sqrt(work).
    (per_work, spread), *_ = np.linalg.lstsq(
        np.array([[small, small**0.5], [large, large**0.5]]), np.array([_SMALL, _LARGE])
    )
    usable = 1 / max(float(per_work), 1.0)
    capacity = Capacity(
        rules.prefill_s_per_token, per_output_token_s, usable, max(float(spread), 0.0)
    )
    return Measured(capacity, in_flight)


def _at_random(demand: Demand, requests_per_s: float, rng: np.random.Generator) -> Demand:
    """Requests as long as the demand's that come at random."""
    number = max(rng.poisson(requests_per_s * _SPAN_S), 1)
    drawn = rng.integers(demand.at_s.size, size=number)
    at_s = np.sort(rng.uniform(0.0, _SPAN_S, number))
    return Demand(at_s, demand.prompt_tokens[drawn], demand.output_tokens[drawn])


def _try(steady: Demand, num_replicas: int, rules: Rules, slo: Slo) -> tuple[float, float]:
    """The part of the time in which so many replicas miss the SLO, and the requests that each has
    in flight."""
    fleet = VirtualFleet(
        steady, rules, cold_start_s=0.0, num_ready=num_replicas, max_replicas=num_replicas
    )
    fleet.advance(_SPAN_S + 600.0)
    setting = Setting(steady, rules, slo, 0.0, num_replicas, num_replicas)
    requests = fleet.state.requests
    # Little's law; requests that have not ended count up to the end.
    in_flight_s = np.minimum(requests.end_s, _SPAN_S) - steady.at_s
    in_flight = float(np.maximum(in_flight_s, 0.0).sum()) / _SPAN_S / num_replicas
    return violation_s(fleet, setting) / _SPAN_S, in_flight
