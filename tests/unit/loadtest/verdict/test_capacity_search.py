"""The search for a capacity, against made-up systems whose capacity is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.verdict.capacity import LOWEST_SHARE, Capacity, CapacitySearch, interval
from loadtest.verdict.summary import Verdict
from serving.errors import ConfigError

System = Callable[[float], Verdict]


def searched(system: System, search: CapacitySearch) -> Capacity:
    while (rate_rps := search.next_rate()) is not None:
        assert search.next_rate() == rate_rps
        search.tell(rate_rps, system(rate_rps), offered_rps=rate_rps, goodput_rps=rate_rps)
    return search.result()


def up_to(threshold_rps: float) -> System:
    return lambda rate_rps: "pass" if rate_rps <= threshold_rps else "fail"


def noisy(threshold_rps: float, spread: float, seed: int) -> System:
    """Whose threshold is another in each probe, log-normal around its own."""
    rng = random.Random(seed)
    return lambda rate: up_to(threshold_rps * math.exp(rng.gauss(0, spread)))(rate)


def test_what_is_to_be_known_of_the_rate_that_holds_is_in_the_reason() -> None:
    search = CapacitySearch(1.0, 4.0, precision_ratio=1.0, repeats=2)
    while (rate_rps := search.next_rate()) is not None:
        notes = (f"answers ended early at {rate_rps:g}",)
        verdict = up_to(2.5)(rate_rps)
        search.tell(rate_rps, verdict, offered_rps=rate_rps, goodput_rps=rate_rps, notes=notes)

    assert search.result().reason == "2 requests/s hold, 4 do not; answers ended early at 2"


@settings(deadline=None)
@given(
    threshold_rps=st.floats(0.02, 900.0),
    precision_ratio=st.sampled_from([0.01, 0.05, 0.2, 1.5]),
    repeats=st.integers(1, 5),
)
def test_a_sharp_threshold_is_found_within_the_precision(
    threshold_rps: float, precision_ratio: float, repeats: int
) -> None:
    search = CapacitySearch(1.0, 1000.0, precision_ratio=precision_ratio, repeats=repeats)

    found = searched(up_to(threshold_rps), search)

    assert found.outcome == "found"
    assert found.rate_rps is not None
    assert found.failing_rps is not None
    assert found.rate_rps <= threshold_rps < found.failing_rps
    assert found.failing_rps <= found.rate_rps * (1 + precision_ratio)
    at_rate = [probe for probe in found.probes if probe.rate_rps == found.rate_rps]
    assert len(at_rate) == repeats
    assert len(found.probes) <= search.most_probes / 2


@settings(deadline=None)
@given(
    threshold_rps=st.floats(0.05, 500.0),
    spread=st.floats(0.0, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_noise_does_not_keep_a_search_from_ending(
    threshold_rps: float, spread: float, seed: int
) -> None:
    search = CapacitySearch(1.0, 1000.0)

    found = searched(noisy(threshold_rps, spread, seed), search)

    assert len(found.probes) <= search.most_probes
    if found.rate_rps is not None:
        verdicts = [p.verdict for p in found.probes if p.rate_rps == found.rate_rps]
        assert verdicts.count("pass") > verdicts.count("fail")


def test_with_noise_the_threshold_is_found_about() -> None:
    spread, ratios = 0.1, []
    for seed in range(200):
        found = searched(noisy(40.0, spread, seed), CapacitySearch(1.0, 1000.0))
        assert found.rate_rps is not None
        ratios.append(found.rate_rps / 40.0)

    within = [ratio for ratio in ratios if math.exp(-2 * spread) <= ratio <= math.exp(2 * spread)]
    assert len(within) >= 190
    assert sorted(ratios)[100] == pytest.approx(1.0, abs=0.06)


def test_one_unlucky_probe_on_the_way_up_is_put_right() -> None:
    seen: list[float] = []

    def system(rate_rps: float) -> Verdict:
        seen.append(rate_rps)
        if rate_rps == 2.0 and seen.count(rate_rps) == 1:
            return "fail"
        return up_to(100.0)(rate_rps)

    found = searched(system, CapacitySearch(1.0, 1000.0))

    assert found.rate_rps is not None
    assert found.rate_rps <= 100.0 < found.rate_rps * 1.05


def test_one_lucky_probe_does_not_stand_its_repeats() -> None:
    seen: list[float] = []

    def system(rate_rps: float) -> Verdict:
        seen.append(rate_rps)
        if rate_rps == 16.0 and seen.count(rate_rps) == 1:
            return "pass"
        return up_to(10.0)(rate_rps)

    found = searched(system, CapacitySearch(1.0, 1000.0))

    assert found.rate_rps is not None
    assert found.rate_rps <= 10.0 < found.rate_rps * 1.05
    assert seen.count(16.0) == 3


def test_what_holds_at_the_highest_rate_is_a_capacity_of_at_least_that() -> None:
    found = searched(up_to(math.inf), CapacitySearch(3.0, 20.0))

    assert (found.outcome, found.rate_rps, found.failing_rps) == ("at least", 20.0, None)
    assert [probe.rate_rps for probe in found.probes] == [3.0, 6.0, 12.0, 20.0, 20.0, 20.0]
    assert found.reason == "20 requests/s, the most that is tried, hold"


def test_a_rate_of_sessions_is_not_called_one_of_requests() -> None:
    found = searched(up_to(10.0), CapacitySearch(8.0, 16.0, precision_ratio=1.0, unit="sessions"))

    assert found.unit == "sessions"
    assert found.reason == "8 sessions/s hold, 16 do not"


@pytest.mark.parametrize(
    ("verdict", "outcome", "known"),
    [("pass", "at least", "8 requests/s hold"), ("fail", "none", "8 requests/s do not")],
)
def test_a_search_that_cannot_go_on_says_why(verdict: Verdict, outcome: str, known: str) -> None:
    search = CapacitySearch(8.0, 100.0)
    search.tell(8.0, verdict, offered_rps=7.5, goodput_rps=7.0)
    search.end("the trace is too short")

    found = search.result()
    assert search.next_rate() is None
    assert (found.outcome, found.reason) == (outcome, f"{known}; the trace is too short")
    assert (search.num_tried(8.0), search.num_tried(16.0)) == (1, 0)
    assert found.offered_at(8.0) == 7.5


def test_what_does_not_hold_at_the_lowest_rate_has_no_capacity() -> None:
    found = searched(up_to(0.0), CapacitySearch(64.0, 100.0))

    assert (found.outcome, found.rate_rps, found.failing_rps) == ("none", None, 64 * LOWEST_SHARE)
    assert found.reason == "even 1 requests/s, the least that is tried, do not hold"
    assert found.goodput_rps is None


@pytest.mark.parametrize(
    ("bottleneck_rps", "outcome", "rate_rps"), [(8.0, "at least", 4.0), (1.0, "none", None)]
)
def test_a_generator_at_its_limit_ends_the_search(
    bottleneck_rps: float, outcome: str, rate_rps: float | None
) -> None:
    def system(rate: float) -> Verdict:
        return "invalid" if rate >= bottleneck_rps else "pass"

    found = searched(system, CapacitySearch(1.0, 1000.0))

    assert (found.outcome, found.rate_rps, found.failing_rps) == (outcome, rate_rps, None)
    assert found.reason == f"the generator was the bottleneck at {bottleneck_rps:g} requests/s"
    assert found.probes[-1].verdict == "invalid"


def test_a_search_that_is_ended_early_tells_what_it_knows() -> None:
    search = CapacitySearch(1.0, 1000.0)
    assert search.result().outcome == "unsettled"

    for verdict in ("pass", "pass", "fail"):
        rate_rps = search.next_rate()
        assert rate_rps is not None
        search.tell(rate_rps, verdict, offered_rps=1.0, goodput_rps=0.5)  # type: ignore[arg-type]

    found = search.result()
    assert (found.outcome, found.rate_rps, found.failing_rps) == ("unsettled", 2.0, 4.0)
    assert found.reason == "the search was ended after 3 probes"


def test_goodput_is_of_all_probes_at_the_rate_found() -> None:
    goodputs = iter([9.0, 10.0, 11.0])
    search = CapacitySearch(10.0, 10.0)
    while (rate_rps := search.next_rate()) is not None:
        search.tell(rate_rps, "pass", offered_rps=10.0, goodput_rps=next(goodputs))

    goodput = search.result().goodput_rps

    assert goodput is not None
    # t = 4.303 for 2 degrees of freedom, deviation 1, of 3 values.
    assert goodput.mean == 10.0
    assert (goodput.low, goodput.high) == pytest.approx((7.5157, 12.4843), abs=1e-4)


def test_a_probe_of_a_generator_at_its_limit_is_in_no_goodput() -> None:
    search = CapacitySearch(10.0, 10.0)
    verdicts: list[tuple[Verdict, float]] = [("pass", 9.0), ("pass", 9.0), ("invalid", 1.0)]
    for verdict, goodput_rps in verdicts:
        search.tell(10.0, verdict, offered_rps=10.0, goodput_rps=goodput_rps)

    assert search.result().goodput_rps == interval([9.0, 9.0])


def test_an_interval_takes_two_values() -> None:
    assert interval([]) is None
    assert interval([1.0]) is None


def test_intervals_of_normal_values_hold_their_mean_as_often_as_they_say() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(2000):
        found = interval([rng.gauss(5.0, 1.0) for _ in range(4)])
        assert found is not None
        held += found.low <= 5.0 <= found.high

    # At 95 % of 2000, three standard deviations are 29.
    assert abs(held - 1900) <= 29


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"start_rps": 0.0}, "start_rps"),
        ({"start_rps": float("nan")}, "start_rps"),
        ({"start_rps": 20.0}, "max_rps"),
        ({"max_rps": math.inf}, "max_rps"),
        ({"precision_ratio": 0.0}, "precision_ratio"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], param: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CapacitySearch(**{"start_rps": 1.0, "max_rps": 10.0, **options})

    assert (caught.value.code, caught.value.param) == ("search_invalid", param)


def test_a_run_without_an_slo_tells_nothing() -> None:
    with pytest.raises(ConfigError, match="takes an SLO"):
        CapacitySearch(1.0, 10.0).tell(1.0, "none", offered_rps=1.0, goodput_rps=1.0)


def test_only_the_rate_that_was_asked_for_can_be_told() -> None:
    with pytest.raises(ValueError, match="not the rate"):
        CapacitySearch(1.0, 10.0).tell(2.0, "pass", offered_rps=2.0, goodput_rps=2.0)
