"""How many replicas a model gets, from what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.scaling.policy import Bounds, Decision, SloPolicy, Tuning
from serving.scaling.signals import Capacity, Replicas, Signals

CAPACITY = Capacity(prompt_token_s=0.0001, output_token_s=0.0, usable_ratio=0.8)
TUNING = Tuning(cold_start_s=120.0, hold_s=180.0)
TICK_S = 5.0


def asked(busy: float, *, at_s: float = 0.0) -> Signals:
    """Prompts that keep so many replicas busy."""
    return Signals(at_s, 1.0, busy / CAPACITY.prompt_token_s, 0.0)


def policy(bounds: Bounds | None = None, tuning: Tuning = TUNING) -> SloPolicy:
    return SloPolicy(CAPACITY, bounds or Bounds(1, 20), tuning)


def settled(one: SloPolicy, busy: float, *, ticks: int = 200, first: int = 0) -> Decision:
    """The decision after the same demand for a while, with the replicas that were asked for."""
    replicas = Replicas(1, 1)
    for tick in range(first, first + ticks):
        decision = one.decide(asked(busy, at_s=tick * TICK_S), replicas)
        replicas = Replicas(decision.desired, decision.desired)
    return decision


def test_a_steady_demand_gets_what_it_keeps_busy_and_room_for_chance() -> None:
    decision = settled(policy(), 4.0)
    assert decision.desired == 5
    assert decision.reason == "4.0 replicas busy, 4.0 expected"


def test_demand_that_falls_is_served_by_as_many_for_a_while() -> None:
    one = policy()
    settled(one, 8.0)
    replicas = Replicas(10, 10)
    wanted = []
    for tick in range(200, 300):
        wanted.append(one.decide(asked(0.5, at_s=tick * TICK_S), replicas))
    first_fewer = next(i for i, decision in enumerate(wanted) if decision.desired < 10)
    assert first_fewer * TICK_S >= TUNING.hold_s
    assert wanted[first_fewer - 1].reason == "10 were needed within the last 180 s"
    assert wanted[-1].desired == 1


def test_prompts_that_wait_are_read_within_a_minute() -> None:
    signals = replace(asked(0.0), waiting_tokens=3 * 60 / CAPACITY.prompt_token_s)
    decision = policy().decide(signals, Replicas(1, 1))
    assert decision.desired == 3
    assert decision.reason == "prompts of 180.0 replica seconds wait"


def refusing(busy: float, refused_ratio: float, *, at_s: float = 0.0) -> Signals:
    """Prompts that keep so many replicas busy, while this share of requests is turned away."""
    return replace(
        asked(busy, at_s=at_s), sent_per_s=10.0 * (1.0 - refused_ratio), wanted_per_s=10.0
    )


def test_what_is_refused_is_demand_too() -> None:
    one = policy()
    settled(one, 4.0)
    for tick in range(200, 260):
        decision = one.decide(refusing(4.0, 0.25, at_s=tick * TICK_S), Replicas(5, 5))
    # A quarter is refused, so what is done is three quarters of 5.3 replicas' work.
    assert decision.desired == 7
    assert decision.reason.startswith("5.3 replicas busy")
    assert decision.reason.endswith("; 1.3 times what was taken in, since some is refused")


def test_refused_clients_that_come_again_and_again_count_four_times_at_most() -> None:
    factors = [refusing(4.0, ratio).demand_factor for ratio in (-0.1, 0.0, 0.2, 0.5, 0.9, 1.0)]
    assert factors == [1.0, 1.0, 1.25, 2.0, 4.0, 4.0]
    assert asked(4.0).demand_factor == 1.0  # replicas' own reports do not tell


def test_those_who_find_no_place_in_a_batch_count_though_they_are_refused() -> None:
    bounds = Bounds(1, 20, requests_per_replica=18, sequences_per_replica=16)
    full = replace(asked(0.5), running=36.0, waiting=4.0)
    assert policy(bounds).decide(full, Replicas(2, 2)).desired == 3
    refusing = replace(full, sent_per_s=6.0, wanted_per_s=10.0, queued=2.0)
    decision = policy(bounds).decide(refusing, Replicas(2, 2))
    assert decision.desired == 4
    assert decision.reason == "62 requests run or want to, 16 fit a replica's batch"


def test_those_who_find_no_place_on_a_replica_count_where_nothing_waits_in_engines() -> None:
    """The limit of requests is below what a batch holds, so the batch is never full."""
    bounds = Bounds(1, 20, requests_per_replica=8, sequences_per_replica=256)
    full = replace(asked(0.2), running=16.0, sent_per_s=6.0, wanted_per_s=12.0)
    decision = policy(bounds).decide(full, Replicas(2, 2))
    assert (decision.desired, decision.reason) == (4, "32 requests run or were refused")


def time_to_meet(demand: float, *, tells_refusals: bool) -> float:
    """Seconds until all is served when a demand of one replica becomes one of `demand`.

    Requests are refused as soon as all replicas are full, so nothing but the refusals tells how
    many there are. Each takes a sixteenth of a replica.
    """
    bounds = Bounds(1, 40, requests_per_replica=18, sequences_per_replica=16)
    one, ready, target, coming, begun_s = policy(bounds), 2, 2, {}, 300.0
    for tick in range(1000):
        at_s = tick * TICK_S
        ready += coming.pop(at_s, 0)
        wanted = 1.0 if at_s < begun_s else demand
        served = min(wanted, float(ready))
        if at_s > begun_s and served == wanted:
            return at_s - begun_s
        is_full = wanted > served
        signals = replace(
            asked(served, at_s=at_s),
            sent_per_s=served,
            wanted_per_s=wanted if tells_refusals else served,
            running=ready * 18.0 if is_full else wanted * 16.0,
            waiting=ready * 2.0 if is_full else 0.0,
        )
        desired = one.decide(signals, Replicas(target, ready)).desired
        if desired > target:
            coming[at_s + TUNING.cold_start_s] = desired - target
        ready = min(ready, desired)
        target = desired
    raise AssertionError("never met")


def test_a_crowd_that_is_refused_is_met_as_soon_as_replicas_can_start() -> None:
    assert time_to_meet(12.0, tells_refusals=True) < 1.25 * TUNING.cold_start_s
    assert time_to_meet(12.0, tells_refusals=False) > 2 * TUNING.cold_start_s


def test_full_caches_ask_for_more_replicas() -> None:
    decision = policy().decide(replace(asked(0.1), kv_used_ratio=1.0), Replicas(9, 9))
    assert decision.desired == 10
    assert decision.reason == "KV caches 100% full"


def test_late_tokens_at_a_bearable_load_tell_that_replicas_take_less() -> None:
    one = policy()
    before = settled(one, 4.0).desired
    for tick in range(200, 400):
        late = replace(asked(4.0, at_s=tick * TICK_S), late_ttft_ratio=0.05)
        after = one.decide(late, Replicas(9, 9)).desired
    assert after > before


def test_late_tokens_under_too_much_load_tell_nothing_new() -> None:
    one = policy()
    settled(one, 4.0)
    for tick in range(200, 400):
        late = replace(asked(4.0, at_s=tick * TICK_S), late_ttft_ratio=0.5)
        after = one.decide(late, Replicas(5, 3)).desired  # two of five still start
    assert after == 5


def test_late_tokens_while_a_queue_is_read_tell_nothing_new() -> None:
    one = policy()
    settled(one, 4.0)
    for tick in range(200, 400):
        late = replace(asked(4.0, at_s=tick * TICK_S), late_ttft_ratio=0.5, waiting_tokens=99_000)
        after = one.decide(late, Replicas(9, 9)).desired
    assert after == 5


def idle(*, at_s: float) -> Signals:
    return Signals(at_s, 0.0, 0.0, 0.0)


def test_an_unused_model_keeps_one_replica_for_a_while_then_none() -> None:
    one, replicas = policy(Bounds(0, 20, idle_s=600.0)), Replicas(2, 2)
    wanted = {}
    for at_s in range(0, 1000, 5):
        decision = one.decide(idle(at_s=at_s), replicas)
        replicas = Replicas(decision.desired, decision.desired)
        wanted[at_s] = decision.desired
    assert wanted[0] == 2
    assert wanted[595] == 1
    assert wanted[600] == 0
    assert decision.reason == "no request for 995 s"


def test_a_promise_holds_for_an_idle_model_too() -> None:
    one = policy(Bounds(0, 20, idle_s=60.0, floors={"gold": 2}))
    gold = frozenset({"gold"})
    for at_s in (0.0, 100.0):
        decision = one.decide(replace(idle(at_s=at_s), active_classes=gold), Replicas(2, 2))
    assert (decision.desired, decision.reason) == (2, "2 are promised to tenants of class gold")


def test_spares_are_within_what_the_model_may_have() -> None:
    one = policy(Bounds(0, 2, spares=8, idle_s=60.0))
    for at_s in (0.0, 100.0):
        decision = one.decide(idle(at_s=at_s), Replicas(2, 2))
    assert decision.desired == 2


def test_who_wakes_a_model_teaches_nothing_of_its_capacity() -> None:
    """The wait was for the start."""
    one = policy(Bounds(0, 20))
    for at_s in range(0, 60, 5):
        one.decide(replace(idle(at_s=at_s), queued=1.0, late_ttft_ratio=1.0), Replicas(1, 0))
    for at_s in range(60, 100, 5):
        one.decide(replace(asked(0.1, at_s=at_s), late_ttft_ratio=1.0), Replicas(1, 1))
    assert one.capacity_ratio == 1.0


def test_the_slo_says_how_many_may_be_late() -> None:
    lenient = policy(tuning=replace(TUNING, allowed_bad_ratio=0.1))
    for tick in range(100):
        lenient.decide(
            replace(asked(4.0, at_s=tick * TICK_S), late_ttft_ratio=0.05), Replicas(9, 9)
        )
    assert lenient.capacity_ratio == 1.0


def test_the_first_request_wakes_a_model() -> None:
    one = policy(Bounds(0, 20, idle_s=60.0))
    for at_s in (0.0, 100.0):
        one.decide(idle(at_s=at_s), Replicas(0, 0))
    woken = one.decide(replace(idle(at_s=105.0), queued=1.0), Replicas(0, 0))
    assert (woken.desired, woken.reason) == (1, "requests wait for a first replica")


def test_a_model_that_was_woken_stays_awake_until_figures_come() -> None:
    one = policy(Bounds(0, 20, idle_s=60.0))
    for at_s in (0.0, 100.0):
        assert one.decide(idle(at_s=at_s), Replicas(0, 0)).desired == 0
    one.wake()
    assert one.decide(idle(at_s=101.0), Replicas(0, 0)).desired == 1
    assert one.decide(idle(at_s=120.0), Replicas(1, 0)).desired == 1
    assert one.decide(idle(at_s=170.0), Replicas(1, 1)).desired == 0


def test_what_runs_must_fit_what_stays() -> None:
    one = policy(Bounds(1, 20, requests_per_replica=100))
    decision = one.decide(replace(asked(0.0), running=350.0), Replicas(4, 4))
    assert (decision.desired, decision.reason) == (4, "350 requests run")


def test_requests_that_wait_for_a_place_in_a_full_batch_need_places() -> None:
    """Their prompts are short, and the tokens that come out are as many as ever."""
    one = policy(Bounds(1, 20, sequences_per_replica=8))
    decision = one.decide(replace(asked(0.1), running=40.0, waiting=32.0), Replicas(1, 1))
    assert decision.desired == 5
    assert decision.reason == "40 requests run or want to, 8 fit a replica's batch"
    reading = replace(asked(0.1), running=6.0, waiting=3.0)  # a moment before their first step
    assert (
        policy(Bounds(1, 20, sequences_per_replica=8)).decide(reading, Replicas(1, 1)).desired == 1
    )


def test_a_class_of_tenants_has_its_replicas_while_it_is_active() -> None:
    one = policy(Bounds(1, 20, floors={"gold": 3, "silver": 2}))
    decision = one.decide(
        replace(asked(0.0), active_classes=frozenset({"gold", "silver"})), Replicas(1, 1)
    )
    assert (decision.desired, decision.reason) == (3, "3 are promised to tenants of class gold")
    assert policy(Bounds(1, 20, floors={"gold": 3})).decide(asked(0.0), Replicas(1, 1)).desired == 1


def test_requests_that_wait_for_room_in_full_caches_count_like_those_that_run() -> None:
    signals = replace(asked(0.1), kv_used_ratio=0.9, running=60.0, waiting=20.0, queued=20.0)
    decision = policy().decide(signals, Replicas(4, 4))
    assert decision.desired == 8  # 80 requests, where 40 fill four caches
    assert decision.reason == "KV caches 90% full, 40 requests want room"


def test_preemptions_call_for_one_more() -> None:
    signals = replace(asked(0.1), kv_used_ratio=0.85, preemptions_per_s=0.5)
    decision = policy().decide(signals, Replicas(4, 4))
    assert decision.desired == 5
    assert decision.reason == "KV caches 85% full, 0.5 preemptions per second"


def test_slower_starts_are_met_earlier() -> None:
    """What rises is met where it will be when the replica is ready."""

    def after_a_rise(one: SloPolicy) -> int:
        replicas = Replicas(1, 1)
        for tick in range(400):
            decision = one.decide(asked(tick / 100, at_s=tick * TICK_S), replicas)
            replicas = Replicas(decision.desired, decision.desired)
        return decision.desired

    slow = policy()
    slow.reckon_with(900.0)
    assert after_a_rise(slow) > after_a_rise(policy())


def test_no_more_than_a_step_at_once() -> None:
    decision = policy(Bounds(1, 20, max_step=2)).decide(asked(12.0), Replicas(3, 3))
    assert decision.desired == 5
    assert decision.reason.endswith("at most 2 more at once")


@given(
    busy=st.lists(st.floats(0, 1000), min_size=1, max_size=50),
    lowest=st.integers(0, 3),
    more=st.integers(0, 10),
    spares=st.integers(0, 3),
    waiting=st.floats(0, 1e9),
)
def test_it_stays_within_its_bounds(
    busy: list[float], lowest: int, more: int, spares: int, waiting: float
) -> None:
    bounds = Bounds(lowest, lowest + more + 1, max_step=4, spares=spares)
    one, replicas = policy(bounds), Replicas(lowest, lowest)
    for tick, demand in enumerate(busy):
        signals = replace(asked(demand, at_s=tick * TICK_S), waiting_tokens=waiting)
        decision = one.decide(signals, replicas)
        assert bounds.lowest <= decision.desired <= bounds.highest
        assert decision.desired <= max(replicas.target + 4, lowest)
        replicas = Replicas(decision.desired, decision.desired)


@pytest.mark.parametrize("busy", [0.0, 0.1, 3.0, 15.9])
def test_more_demand_never_gets_fewer(busy: float) -> None:
    assert settled(policy(), busy).desired <= settled(policy(), busy * 1.1 + 0.1).desired
