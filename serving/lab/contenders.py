"""The policies that are compared, each as what turns a view of the fleet into a decision."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from ray.serve import autoscaling_policy as ray_policy
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from serving.lab.demand import Demand
from serving.lab.replay import Floats, Ints
from serving.lab.scaling import TICK_S, Scaler, Seen, Setting, experiment, missed_windows
from serving.scaling.policy import Bounds, Decision, SloPolicy, Tuning
from serving.scaling.signals import Capacity

_ORACLE_BLOCK_S = 10.0
_ORACLE_TRIES = 4


def slo(capacity: Capacity, bounds: Bounds, tuning: Tuning) -> Scaler:
    """Galerne's own."""
    policy = SloPolicy(capacity, bounds, tuning)
    return lambda seen: policy.decide(seen.signals, seen.replicas)


class RayDefault:
    """Ray Serve's own policy by the number of requests, called as its controller calls it: the real
    function, in virtual time.

    Source: `DeploymentAutoscalingState` in ray/serve/_private/autoscaling_state.py, Ray 2.60.
    """

    def __init__(self, config: AutoscalingConfig) -> None:
        self._config = config
        # The controller wraps every policy so, its own included.
        self._policy = ray_policy._apply_autoscaling_config(ray_policy.default_autoscaling_policy)
        self._state: dict[str, Any] = {}
        self._in_flight: deque[int] = deque(
            maxlen=max(round(config.look_back_period_s / TICK_S), 1)
        )

    def __call__(self, seen: Seen) -> Decision:
        """What Ray would do."""
        self._in_flight.append(seen.in_flight)
        mean = sum(self._in_flight) / len(self._in_flight)
        config = self._config
        context = AutoscalingContext(
            deployment_id=cast("Any", None),
            deployment_name="lab",
            app_name="lab",
            current_num_replicas=seen.replicas.ready,
            target_num_replicas=seen.replicas.target,
            running_replicas=[],
            total_num_requests=mean,
            total_queued_requests=0.0,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=config.min_replicas,
            capacity_adjusted_max_replicas=config.max_replicas,
            policy_state=self._state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=seen.signals.at_s,
            config=config,
        )
        real_time = ray_policy.time
        # Its delays ask the wall clock.
        ray_policy.time = cast("Any", SimpleNamespace(time=lambda: seen.signals.at_s))
        try:
            desired, self._state = self._policy(context)
        finally:
            ray_policy.time = real_time
        desired = min(max(desired, config.min_replicas), config.max_replicas)
        return Decision(desired, f"{mean:.1f} requests in flight")


@dataclass(frozen=True, slots=True)
class RayTuning:
    """What of Ray's policy can be tuned, as it comes: requests in flight per replica, and how long
    one number of replicas must be wanted before it is set."""

    target: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0


def ray_default(tuning: RayTuning, *, highest: int) -> Scaler:
    """Ray's policy."""
    return RayDefault(
        AutoscalingConfig(
            min_replicas=1,
            max_replicas=highest,
            target_ongoing_requests=tuning.target,
            upscale_delay_s=tuning.upscale_delay_s,
            downscale_delay_s=tuning.downscale_delay_s,
        )
    )


class KedaThreshold:
    """A threshold on the requests in flight per replica, as KEDA hands it to Kubernetes' horizontal
    pod autoscaler: asked every 15 s, a tenth of tolerance, and down only to the highest of the last
    five minutes.

    Source: Kubernetes documentation, "Horizontal Pod Autoscaling", algorithm details.
    """

    _PERIOD_S = 15.0
    _TOLERANCE = 0.1
    _STABILIZATION_S = 300.0

    def __init__(self, *, threshold: float, highest: int) -> None:
        self._threshold = threshold
        self._highest = highest
        self._recommended: deque[tuple[float, int]] = deque()
        self._asked_at_s = -math.inf

    def __call__(self, seen: Seen) -> Decision:
        """What it would do."""
        now_s, target = seen.signals.at_s, seen.replicas.target
        if now_s - self._asked_at_s < self._PERIOD_S:
            return Decision(target, "not asked")
        self._asked_at_s = now_s
        ratio = seen.in_flight / self._threshold / max(target, 1)
        desired = math.ceil(target * ratio) if abs(ratio - 1) > self._TOLERANCE else target
        self._recommended.append((now_s, min(max(desired, 1), self._highest)))
        while self._recommended[0][0] <= now_s - self._STABILIZATION_S:
            self._recommended.popleft()
        highest = max(number for _, number in self._recommended)
        return Decision(max(min(target, highest), self._recommended[-1][1]), f"ratio {ratio:.2f}")


class Schedule:
    """Decides by the clock: `needed` replicas are there in each block of time.

    A replica that is not needed for less than a cold start stays, since to have it back would hold
    its GPU for as long.

    Args:
        needed: [num_blocks].
    """

    def __init__(self, needed: Ints, *, block_s: float, cold_start_s: float) -> None:
        self._block_s = block_s
        ahead = math.ceil((cold_start_s + TICK_S) / block_s)
        ready = _bridged(needed, gap=ahead)
        # Ordered a cold start before.
        padded = np.concatenate([ready, np.full(ahead, ready[-1])])
        self._target = np.array([padded[i : i + ahead + 1].max() for i in range(ready.size)])

    def __call__(self, seen: Seen) -> Decision:
        """What is to be there now and a cold start later."""
        block = min(int(seen.signals.at_s / self._block_s), self._target.size - 1)
        return Decision(max(int(self._target[block]), 1), "known beforehand")


def _bridged(needed: Ints, *, gap: int) -> Ints:
    """[num_blocks]: no replica goes for `gap` blocks or fewer.

    >>> _bridged(np.array([2, 1, 2, 1, 1, 1, 2]), gap=2).tolist()
    [2, 2, 2, 1, 1, 1, 2]
    """
    bridged = needed.copy()
    for layer in range(1, int(needed.max(initial=0)) + 1):
        wanted = np.flatnonzero(needed >= layer)
        for before, after in pairwise(wanted):
            if after - before - 1 <= gap:
                bridged[before:after] = np.maximum(bridged[before:after], layer)
    return bridged


def oracle(setting: Setting, capacity: Capacity) -> Scaler:
    """Knows the future: few replica seconds and no window without enough replicas.

    It begins with what the work that arrives in each block needs, tries it, and adds a replica
    wherever the SLO was missed, until it is kept.
    """
    work = work_of(setting.demand, capacity, _ORACLE_BLOCK_S)
    # Half a replica less than random arrivals need: these ones are known.
    needed = np.maximum(np.ceil(capacity.replicas_for(work) - 0.5), 1).astype(np.int64)
    for _ in range(_ORACLE_TRIES):
        scaler = Schedule(needed, block_s=_ORACLE_BLOCK_S, cold_start_s=setting.cold_start_s)
        _, course = experiment("oracle", setting, scaler)
        missed = missed_windows(course.fleet, setting)
        if not missed.any():
            break
        blocks = (np.flatnonzero(missed) * setting.slo.window_s / _ORACLE_BLOCK_S).astype(np.int64)
        short = np.zeros(needed.size, dtype=bool)
        for back in (0, 1):  # what waits has come before
            short[np.maximum(blocks - back, 0)] = True
        needed = np.minimum(needed + short, setting.max_replicas)
    return Schedule(needed, block_s=_ORACLE_BLOCK_S, cold_start_s=setting.cold_start_s)


def work_of(demand: Demand, capacity: Capacity, block_s: float) -> Floats:
    """[num_blocks]: replicas that the requests arriving in each block keep busy."""
    work_s = demand.work_s(capacity.prompt_token_s, capacity.output_token_s)
    blocks = (demand.at_s / block_s).astype(np.int64)
    return cast("Floats", np.bincount(blocks, weights=work_s) / block_s)
