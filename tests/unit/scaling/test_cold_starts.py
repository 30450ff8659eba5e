"""How long a replica takes to start, learned from those that came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.scaling.cold_start import ColdStarts

Step = tuple[float, int, int]


def expected_after(*steps: Step) -> float:
    starts = ColdStarts(first_guess_s=99.0)
    for at_s, target, ready in steps:
        starts.observe(at_s, target=target, ready=ready)
    return starts.expected_s


def test_until_one_has_come_the_guess_counts() -> None:
    assert expected_after((0, 1, 0), (50, 2, 0)) == 99.0


def test_replicas_that_were_there_from_the_beginning_tell_nothing() -> None:
    assert expected_after((1000, 3, 3)) == 99.0


def test_an_arrival_belongs_to_the_oldest_order() -> None:
    assert expected_after((0, 2, 1), (30, 3, 1), (60, 3, 2)) == 60.0


def test_an_order_that_was_cancelled_is_forgotten() -> None:
    assert expected_after((0, 2, 1), (30, 1, 1), (100, 2, 1), (140, 2, 2)) == 40.0


def test_the_replacement_of_a_lost_replica_counts() -> None:
    assert expected_after((0, 2, 2), (100, 2, 1), (170, 2, 2)) == 70.0


def test_one_that_waits_for_a_node_does_not_make_the_others_look_slow() -> None:
    steps: list[Step] = [(0.0, 1, 1)]
    for number in range(9):
        at_s = 1000.0 * number
        took_s = 3600.0 if number == 4 else 60.0
        steps += [(at_s, 2, 1), (at_s + min(took_s, 999.0), 2, 2), (at_s + 999.5, 1, 1)]
    assert expected_after(*steps) == 60.0


def test_the_first_one_that_waits_for_a_node_is_not_believed() -> None:
    assert expected_after((0, 2, 1), (3600, 2, 2)) == 4 * 99.0


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.integers(0, 20), st.integers(0, 20)),
        min_size=1,
        max_size=50,
    )
)
def test_whatever_happens_it_reckons_with_a_time_that_could_be(steps: list[Step]) -> None:
    starts, at_s = ColdStarts(first_guess_s=10.0), 0.0
    for after_s, target, ready in steps:
        at_s += after_s
        starts.observe(at_s, target=target, ready=ready)
        assert 0.0 <= starts.expected_s <= max(at_s, 10.0)
