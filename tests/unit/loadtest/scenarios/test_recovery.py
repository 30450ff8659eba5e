"""When requests are well again, on made-up runs of ten requests a second."""

import numpy as np

from loadtest.scenarios.recovery import recovered_after_s

DUE_S = np.arange(0.0, 60.0, 0.1)


def _recovered(is_good: np.ndarray, attainment_ratio: float = 0.99) -> float | None:
    return recovered_after_s(
        DUE_S, is_good, event_s=20.0, window_s=5.0, attainment_ratio=attainment_ratio
    )


def _bad_between(begin_s: float, end_s: float) -> np.ndarray:
    return np.greater_equal(DUE_S, begin_s) & np.less_equal(DUE_S, end_s)


def test_nothing_bad_is_no_time() -> None:
    assert _recovered(np.ones(DUE_S.size, bool)) == 0.0


def test_it_counts_from_the_event_to_the_last_bad_request() -> None:
    recovered = _recovered(~_bad_between(18, 26.05))

    assert recovered is not None
    assert np.isclose(recovered, 6.0)


def test_a_relapse_counts() -> None:
    recovered = _recovered(~_bad_between(18, 26) & ~_bad_between(39, 40.05))

    assert recovered is not None
    assert np.isclose(recovered, 20.0)


def test_what_was_bad_before_the_event_does_not_count() -> None:
    assert _recovered(~_bad_between(5, 19.9)) == 0.0


def test_bad_to_the_end_is_no_recovery() -> None:
    assert _recovered(~_bad_between(20, 60)) is None
    assert _recovered(~_bad_between(58, 59)) is None


def test_a_slow_one_among_many_good_ones_is_allowed() -> None:
    is_good = ~_bad_between(39.95, 40.05)

    assert _recovered(is_good, attainment_ratio=0.95) == 0.0
    assert np.isclose(_recovered(is_good) or 0.0, 20.0)


def test_a_run_without_requests_was_never_bad() -> None:
    nothing = np.empty(0)
    is_good = nothing.astype(bool)

    assert recovered_after_s(nothing, is_good, event_s=0, window_s=5, attainment_ratio=0.9) == 0.0
