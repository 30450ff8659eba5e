"""The compiled clockwork does what the simulated engine does."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import numpy as np
import pytest

from serving.lab.demand import Demand
from serving.lab.fleet import Slo, VirtualFleet, rules_of
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings
from serving.simulator.kv_cache import KvCacheConfig
from serving.simulator.request import Request
from serving.simulator.scheduler import Scheduler, SchedulerConfig
from serving.simulator.timing import StepTimer

SLO = Slo(ttft_s=0.5, itl_s=0.04)
ENGINE = EngineSettings(max_num_batched_tokens=512, max_num_seqs=16, block_size=16)
SIMULATOR = SimulatorSettings(kv_blocks=2000)
MODEL = ModelSettings(simulator=SIMULATOR, engine=ENGINE)
RULES = rules_of(MODEL, SLO)


def demand_of(*rows: tuple[float, int, int]) -> Demand:
    at_s, prompt, output = zip(*rows, strict=True)
    return Demand(np.array(at_s), np.array(prompt), np.array(output))


def at_random(number: int, per_s: float, seed: int = 0) -> Demand:
    rng = np.random.default_rng(seed)
    return Demand(
        np.cumsum(rng.exponential(1 / per_s, number)),
        np.clip(rng.lognormal(6, 1, number), 8, 4000).astype(np.int64),
        np.clip(rng.lognormal(4, 1, number), 1, 400).astype(np.int64),
    )


def replayed(demand: Demand, *, num_ready: int = 1, cold_start_s: float = 0.0) -> VirtualFleet:
    fleet = VirtualFleet(
        demand, RULES, cold_start_s=cold_start_s, num_ready=num_ready, max_replicas=8
    )
    fleet.advance(demand.span_s + 600.0)
    return fleet


def simulated(demand: Demand) -> tuple[list[float], list[float]]:
    """[num_requests] each: when the simulated engine gives the first token, and the last."""
    scheduler = Scheduler(
        SchedulerConfig(
            KvCacheConfig(num_blocks=SIMULATOR.kv_blocks, block_size=16),
            max_model_len=8192,
            max_num_seqs=16,
            max_num_batched_tokens=512,
        )
    )
    timer, tokens = StepTimer(SIMULATOR.timing, Random(0)), Random(1)
    enters_s = demand.at_s + SIMULATOR.timing.overhead_s
    times: dict[str, list[float]] = defaultdict(list)
    now_s, entered = 0.0, 0
    while entered < enters_s.size or scheduler.num_running or scheduler.num_waiting:
        while entered < enters_s.size and enters_s[entered] <= now_s:
            # None of them begins as another one does: the laboratory has no prefix caches.
            prompt = tokens.choices(range(1 << 30), k=int(demand.prompt_tokens[entered]))
            wanted = int(demand.output_tokens[entered])
            scheduler.add(Request(str(entered), prompt, max_tokens=wanted))
            entered += 1
        plan = scheduler.schedule()
        if not plan.scheduled:
            now_s = float(enters_s[entered])
            continue
        now_s += timer.seconds(plan)
        for request, _ in scheduler.commit(plan, lambda _: 0):
            times[request.request_id].append(now_s)
    in_order = [times[str(number)] for number in range(demand.at_s.size)]
    return [one[0] for one in in_order], [one[-1] for one in in_order]


def test_one_request_takes_the_steps_it_needs() -> None:
    requests = replayed(demand_of((1.0, 1000, 3))).state.requests
    timing = SIMULATOR.timing
    read_s = 2 * timing.step_s + 1000 / timing.prefill_tokens_per_s
    assert requests.first_token_s[0] == pytest.approx(1.0 + timing.overhead_s + read_s)
    token_s = timing.step_s + timing.decode_s_per_sequence + 1001 * timing.attention_s_per_token
    assert requests.end_s[0] == pytest.approx(requests.first_token_s[0] + 2 * token_s)


@pytest.mark.parametrize("per_s", [2.0, 10.0, 14.0])
def test_it_agrees_with_the_simulated_engine(per_s: float) -> None:
    """Idle, busy and with a queue that grows: the last one waits for KV blocks and sequences."""
    demand = at_random(400, per_s)
    requests = replayed(demand).state.requests
    first_s, end_s = simulated(demand)
    ttft_s, real_ttft_s = requests.first_token_s - demand.at_s, np.array(first_s) - demand.at_s
    for share in (0.1, 0.5, 0.9, 0.99):
        ours, theirs = np.quantile(ttft_s, share), np.quantile(real_ttft_s, share)
        assert ours == pytest.approx(theirs, rel=0.05)
    assert requests.end_s.max() == pytest.approx(max(end_s), rel=0.01)
    good = np.mean(ttft_s <= SLO.ttft_s)
    assert good == pytest.approx(np.mean(real_ttft_s <= SLO.ttft_s), abs=0.05)


def test_every_request_is_answered_and_everything_given_back() -> None:
    fleet = replayed(at_random(2000, 40.0), num_ready=3)
    assert np.isfinite(fleet.state.requests.end_s).all()
    replicas = fleet.state.replicas
    for figures in (
        replicas.num_queued, replicas.num_running, replicas.waiting_tokens,
        replicas.context_tokens, replicas.reserved_tokens,
    ):  # fmt: skip
        assert not figures.any()
    assert fleet.state.counts.output_tokens.sum() == fleet.demand.output_tokens.sum()


def test_in_small_steps_of_time_it_is_the_same() -> None:
    demand = at_random(300, 10.0)
    whole = replayed(demand)
    fleet = VirtualFleet(demand, RULES, cold_start_s=0.0, num_ready=1, max_replicas=8)
    while fleet.now_s < demand.span_s + 600.0:
        fleet.advance(fleet.now_s + 0.7)
    assert np.allclose(fleet.state.requests.end_s, whole.state.requests.end_s)


def test_requests_wait_for_the_first_replica() -> None:
    fleet = VirtualFleet(
        demand_of((0.0, 100, 2), (3.0, 100, 2)), RULES,
        cold_start_s=30.0, num_ready=0, max_replicas=2,
    )  # fmt: skip
    fleet.scale(1)
    fleet.advance(20.0)
    assert fleet.num_waiting_for_any == 2
    assert fleet.census().starting == 1
    fleet.advance(60.0)
    assert fleet.num_waiting_for_any == 0
    assert (fleet.state.requests.first_token_s > 30.0).all()


def test_a_replica_that_is_let_go_finishes_first() -> None:
    fleet = VirtualFleet(
        demand_of((0.0, 100, 400), (0.1, 100, 400), (2.0, 100, 5)), RULES,
        cold_start_s=30.0, num_ready=2, max_replicas=4,
    )  # fmt: skip
    fleet.advance(1.0)
    fleet.scale(1)
    assert fleet.census().draining == 1
    fleet.advance(2.5)
    assert fleet.census().draining == 1
    fleet.advance(30.0)
    assert np.isfinite(fleet.state.requests.end_s).all()
    assert (fleet.census().ready, fleet.census().draining) == (1, 0)


def test_replicas_cost_from_their_order() -> None:
    fleet = VirtualFleet(
        demand_of((0.0, 10, 1)), RULES, cold_start_s=60.0, num_ready=1, max_replicas=4
    )
    fleet.scale(3)
    fleet.advance(50.0)
    assert fleet.replica_s == 150.0
    fleet.scale(1)  # those that start are the first to go
    assert fleet.census().starting == 0
    fleet.advance(100.0)
    assert fleet.replica_s == 200.0
