"""The fewest replicas that keep the SLO are found, ranked, and compared with full attention."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.adapters.model_configs import load_model_config
from serving.errors import ConfigError
from serving.lab.demand import Demand
from serving.lab.deployment import (
    NUM_SPARES,
    Deployment,
    DeploymentQuestion,
    Ranking,
    Rejected,
    _fewest,
    by_replicas,
    rank_deployments,
    shorter_than,
    try_shape,
    window_saving,
)
from serving.lab.fleet import Slo
from serving.lab.observation import Observation
from serving.planner.hardware import find_gpu
from serving.planner.replica_plan import ReplicaQuestion, Shape

SLO = Slo(ttft_s=1.0, itl_s=0.05)
SPAN_S = 120.0


def steady(per_s: float, prompt: int = 1000, output: int = 200) -> Demand:
    """Requests at random times of about these lengths."""
    rng = np.random.default_rng(5)
    number = int(per_s * SPAN_S)
    return Demand(
        np.sort(rng.uniform(0.0, SPAN_S, number)),
        rng.integers(prompt // 2, prompt * 3 // 2, number),
        rng.integers(output // 2, output * 3 // 2, number),
    )


def ask(
    demand: Demand, model: str = "mistral-7b-v0.1", gpu: str = "H100-80G", slo: Slo = SLO
) -> DeploymentQuestion:
    replica = ReplicaQuestion(load_model_config(model), find_gpu(gpu), 16_384)
    return DeploymentQuestion(replica, demand, slo)


def ranked(question: DeploymentQuestion) -> Ranking:
    return rank_deployments(question, tell=lambda _: None)


BUSY = ask(steady(60.0))


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    return ranked(BUSY)


def test_deployments_are_ranked_by_gpus_then_by_strain(ranking: Ranking) -> None:
    keys = [(one.num_gpus, one.strain(SLO)) for one in ranking.deployments]
    assert len(keys) > 5
    assert keys == sorted(keys)


def test_every_deployment_keeps_the_slo_without_its_spare(ranking: Ranking) -> None:
    for one in ranking.deployments:
        assert one.seen.keeps(SLO)
        assert one.strain(SLO) <= 1.02  # the histogram's bins
        assert one.num_replicas == one.seen.num_replicas + NUM_SPARES
        assert one.num_gpus == one.num_replicas * one.plan.shape.tensor_parallel_size


def test_one_replica_less_would_miss_the_slo(ranking: Ranking) -> None:
    best = ranking.deployments[0]
    course = by_replicas(BUSY, best, more=1)
    needed = best.seen.num_replicas
    assert needed > 1
    assert [seen.num_replicas for seen in course] == list(range(1, needed + 2))
    assert course[needed - 1] == best.seen
    assert not course[needed - 2].keeps(SLO)


def test_more_load_takes_more_gpus() -> None:
    found = [
        try_shape(ask(steady(per_s)), Shape(1, 512, 256)) for per_s in (5.0, 20.0, 60.0, 120.0)
    ]
    gpus = [one.num_gpus for one in found if isinstance(one, Deployment)]
    assert len(gpus) == 4
    assert all(low <= high for low, high in pairwise(gpus))
    assert gpus[-1] > 2 * gpus[0]


def test_weights_that_do_not_fit_are_the_reason() -> None:
    tried = try_shape(ask(steady(1.0), "mistral-small-3.1-24b", "L40S"), Shape(1, 512, 64))
    assert isinstance(tried, Rejected)
    assert tried.by == "memory"
    assert "weights of 44.7 GiB" in tried.reason


def test_gpus_that_cannot_share_the_heads_are_the_reason() -> None:
    question = ask(steady(1.0), "demo", "L4")
    tried = try_shape(
        replace(question, replica=replace(question.replica, max_model_len=4096)), Shape(2, 512, 64)
    )
    assert isinstance(tried, Rejected)
    assert tried.by == "heads"


def test_a_question_that_no_shape_answers_is_an_error() -> None:
    with pytest.raises(ConfigError, match="block size of latent attention"):
        try_shape(ask(steady(1.0), "deepseek-v3", "B200"), Shape(8, 512, 64))


@pytest.mark.parametrize(
    ("slo", "by", "says"),
    [
        (Slo(ttft_s=0.01, itl_s=0.05), "TTFT", "even on an idle replica"),
        (Slo(ttft_s=1.0, itl_s=0.004), "ITL", "even on an idle replica"),
    ],
)
def test_what_no_number_of_replicas_can_keep_is_told_at_once(slo: Slo, by: str, says: str) -> None:
    tried = try_shape(ask(steady(5.0), slo=slo), Shape(1, 2048, 64))
    assert isinstance(tried, Rejected)
    assert (tried.by, says in tried.reason) == (by, True)


def test_a_long_prompt_takes_what_its_own_length_costs_however_short_the_others_are() -> None:
    """Mistral Nemo 12B on two H100: half of a prompt of 126,195 tokens is attention."""
    lengths = np.array([500] * 99 + [126_195])
    shape = Shape(2, 2048, 64)

    def asked(demand: Demand, ttft_s: float) -> DeploymentQuestion:
        found = ask(demand, "mistral-nemo-12b", slo=Slo(ttft_s, itl_s=1.0, ratio=1.0))
        return replace(found, replica=replace(found.replica, max_model_len=130_000))

    mixed = Demand(np.arange(100) * 1.0, lengths, np.full(100, 2))
    alone = Demand(np.zeros(1), lengths[-1:], np.full(1, 2))
    found = [try_shape(asked(demand, 10.0), shape) for demand in (mixed, alone)]
    slowest = [one.seen.ttft_p99_s for one in found if isinstance(one, Deployment)]
    assert slowest == pytest.approx([7.0, 7.0], rel=0.05)
    tried = try_shape(asked(mixed, 6.0), shape)
    assert isinstance(tried, Rejected)
    assert "even on an idle replica" in tried.reason


def test_chunks_that_hold_streams_up_too_long_are_rejected_for_it() -> None:
    """A prompt of 8,000 tokens in one step takes 200 ms, and answers are short."""
    demand = steady(4.0, prompt=8000, output=20)
    tried = try_shape(ask(demand, slo=Slo(ttft_s=2.0, itl_s=0.03)), Shape(1, 8192, 64), most_gpus=3)
    assert isinstance(tried, Rejected)
    assert tried.by == "GPUs"


def test_a_model_without_windows_saves_nothing() -> None:
    question = ask(steady(5.0), "mistral-7b-v0.3")
    best = ranked(question).deployments[0]
    assert window_saving(question, best) is None


def test_the_window_holds_less_of_a_long_sequence(ranking: Ranking) -> None:
    saving = window_saving(BUSY, ranking.deployments[0])
    assert saving is not None
    assert saving.full is not None
    assert saving.windowed.kv_bytes_per_sequence < 0.4 * saving.full.kv_bytes_per_sequence
    assert saving.windowed.sequences > 2.5 * saving.full.sequences
    assert saving.windowed.num_gpus <= saving.full.num_gpus


def test_long_prompts_need_more_gpus_without_the_window() -> None:
    """On a GPU with little room, full attention runs out of it."""
    demand = steady(6.0, prompt=9000, output=300)
    question = ask(demand, gpu="L4", slo=Slo(ttft_s=20.0, itl_s=0.5))
    question = replace(question, replica=replace(question.replica, max_model_len=16_384))
    tried = try_shape(question, Shape(1, 512, 64))
    assert isinstance(tried, Deployment)
    saving = window_saving(question, tried)
    assert saving is not None
    assert saving.full is None or saving.full.num_gpus > saving.windowed.num_gpus


def test_requests_that_are_too_long_are_left_out() -> None:
    demand = Demand(np.array([0.0, 1.0]), np.array([10, 5000]), np.array([5, 5]), num_dropped=2)
    taken = shorter_than(demand, 100)
    assert (taken.at_s.tolist(), taken.num_dropped) == ([0.0], 3)
    with pytest.raises(ConfigError, match="all requests are longer than 12 tokens"):
        shorter_than(demand, 12)


def test_a_burst_may_take_as_long_as_the_slo_allows() -> None:
    """Work of 7 s comes at once, and one replica has a minute for it."""
    burst = Demand(np.zeros(8), np.full(8, 30_000), np.full(8, 10))
    question = ask(burst, slo=Slo(ttft_s=60.0, itl_s=1.0))
    question = replace(question, replica=replace(question.replica, max_model_len=32_768))
    tried = try_shape(question, Shape(1, 512, 64))
    assert isinstance(tried, Deployment)
    assert tried.seen.num_replicas == 1


@given(needed=st.integers(1, 300), guess=st.integers(1, 300), most=st.integers(1, 300))
def test_the_search_finds_the_fewest(needed: int, guess: int, most: int) -> None:
    guess = min(guess, most)
    calls = []

    def observe(number: int) -> Observation:
        calls.append(number)
        late = 0.0 if number >= needed else 1.0
        return Observation(number, 0, 0, 0, 0, late, 0, 0, 0, 0, 0, 0)

    seen = _fewest(observe, SLO, guess=guess, most=most)
    assert seen.num_replicas == min(needed, most)
    assert max(calls) <= most
    assert len(calls) < 25
