"""CPU and memory by role."""

import os
import time

import pytest

from loadtest.accounting import Sample, Usage, between, family, microseconds_per, rss_mib, sample


def test_cpu_of_a_role_is_that_of_all_its_processes() -> None:
    before = Sample(0.0, {"proxy": {1: Usage(1.0, 0), 2: Usage(2.0, 0)}, "ray": {3: Usage(0.0, 0)}})
    after = Sample(2.0, {"proxy": {1: Usage(1.5, 0), 2: Usage(2.5, 0)}, "ray": {3: Usage(0.5, 0)}})

    span = between(before, after)

    assert span.cpu_s == {"proxy": 1.0, "ray": 0.5}
    assert span.cores("proxy") == 0.5


def test_a_process_that_ended_counts_nothing() -> None:
    before = Sample(0.0, {"proxy": {1: Usage(5.0, 0)}})

    assert between(before, Sample(1.0, {"proxy": {}})).cpu_s == {"proxy": 0}


def test_a_role_that_does_not_exist_uses_nothing() -> None:
    assert between(Sample(0.0, {}), Sample(1.0, {})).cores("haproxy") == 0.0


def test_no_events_cost_infinitely_much_each() -> None:
    assert microseconds_per(0, 1.0) == float("inf")


def test_memory_counts_the_named_roles_only() -> None:
    taken = Sample(
        0.0, {"proxy": {1: Usage(0, 2**20), 2: Usage(0, 2**21)}, "ray": {3: Usage(0, 1)}}
    )

    assert rss_mib(taken, frozenset({"proxy", "gateway"})) == 3.0


def test_own_cpu_time_is_read_exactly() -> None:
    taken = sample({"self": frozenset({os.getpid()})})

    assert taken.usage["self"][os.getpid()].cpu_s == pytest.approx(time.process_time(), abs=0.05)


def test_a_process_that_is_gone_is_left_out() -> None:
    assert sample({"gone": frozenset({2**22 + 1})}).usage == {"gone": {}}
    assert family(2**22 + 1) == frozenset()
