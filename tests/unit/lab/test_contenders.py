"""The policies of the laboratory, each against what it stands for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ray.serve import autoscaling_policy

from serving.lab.contenders import KedaThreshold, RayTuning, Schedule, ray_default
from serving.lab.scaling import TICK_S, Scaler, Seen
from serving.scaling.signals import Replicas, Signals


def seen(at_s: float, in_flight: int, target: int) -> Seen:
    return Seen(Signals(at_s, 0.0, 0.0, 0.0), Replicas(target, target), in_flight)


def course(scaler: Scaler, in_flight: list[int], *, first: int = 1) -> Iterator[int]:
    """What it decides tick by tick, always obeyed."""
    target = first
    for tick, number in enumerate(in_flight):
        target = scaler(seen(tick * TICK_S, number, target)).desired
        yield target


def test_rays_policy_waits_before_it_orders() -> None:
    targets = list(course(ray_default(RayTuning(target=10.0), highest=20), [40] * 20))
    assert targets[0] == 1
    assert targets.index(4) == pytest.approx(30.0 / TICK_S, abs=1)


def test_rays_policy_waits_ten_minutes_before_it_lets_go() -> None:
    targets = list(course(ray_default(RayTuning(target=10.0), highest=20), [10] * 200, first=4))
    assert targets.index(1) == pytest.approx(600.0 / TICK_S, abs=1)


def test_rays_policy_averages_half_a_minute() -> None:
    scaler = ray_default(RayTuning(10.0, upscale_delay_s=0.0), highest=20)
    targets = list(course(scaler, [0] * 6 + [60] * 6))
    assert targets[6] < 6
    assert targets[11] == 6


def test_the_wall_clock_is_left_alone() -> None:
    clock = autoscaling_policy.time
    list(course(ray_default(RayTuning(), highest=5), [9] * 3))
    assert autoscaling_policy.time is clock


def test_a_threshold_tolerates_a_tenth() -> None:
    assert list(course(KedaThreshold(threshold=10.0, highest=20), [43], first=4)) == [4]
    assert list(course(KedaThreshold(threshold=10.0, highest=20), [45], first=4)) == [5]


def test_a_threshold_lets_go_after_five_minutes() -> None:
    scaler = KedaThreshold(threshold=10.0, highest=20)
    targets = list(course(scaler, [80] * 3 + [10] * 100, first=8))
    first_fewer = next(tick for tick, target in enumerate(targets) if target < 8)
    assert first_fewer * TICK_S == pytest.approx(300.0, abs=15.0)


def test_a_schedule_orders_a_cold_start_before() -> None:
    needed = np.array([1, 1, 1, 1, 3, 1, 1, 1, 1, 1])
    schedule = Schedule(needed, block_s=10.0, cold_start_s=25.0)
    targets = [schedule(seen(block * 10.0, 0, 1)).desired for block in range(10)]
    assert targets == [1, 3, 3, 3, 3, 1, 1, 1, 1, 1]
