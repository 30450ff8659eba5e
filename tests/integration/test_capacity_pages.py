"""Pages of searches for capacity, with their picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from page_elements import Elements, assert_is_sound

from loadtest.report.capacity_page import capacity_plot
from loadtest.report.files import write_capacity
from loadtest.verdict.capacity import Capacity, CapacitySearch, Interval, Probe, Unit
from loadtest.verdict.summary import Verdict

HOSTILE = "<b>$x$</b> & 日本"


def searched(
    capacity_rps: float, *, num_probes: int = 100, turns: int = 1, unit: Unit = "requests"
) -> Capacity:
    search = CapacitySearch(1.0, 100.0, unit=unit)
    while (rate := search.next_rate()) is not None and num_probes:
        num_probes -= 1
        verdict: Verdict = "pass" if rate <= capacity_rps else "fail"
        goodput_rps = turns * min(rate, capacity_rps)
        search.tell(rate, verdict, offered_rps=turns * rate, goodput_rps=goodput_rps)
    return search.result()


@pytest.mark.parametrize(
    ("capacity", "headline"),
    [
        (searched(11.0), "✓ 10.8 requests/s"),
        (searched(1000.0), "≥ At least 100 requests/s"),
        (searched(11.0, turns=4, unit="sessions"), "✓ 10.8 sessions/s, 43.3 requests/s"),
        (searched(0.0), "✕ No rate is known to hold"),
        (searched(11.0, num_probes=3), "? Unsettled"),
        (searched(11.0, num_probes=0), "? Unsettled"),
        (Capacity("at least", 5.0, None, Interval(5.0, 4.9, 5.1), HOSTILE,
                  (Probe(5.0, "pass", 5.0, 5.0), Probe(9.0, "invalid", 9.0, 0.0))),
         "≥ At least 5.00 requests/s"),
    ],
    ids=["found", "at least", "sessions", "none", "ended", "not begun", "generator too slow"],
)  # fmt: skip
def test_any_search_has_a_page(capacity: Capacity, headline: str, tmp_path: Path) -> None:
    written = write_capacity(tmp_path, capacity, title=HOSTILE)

    page = written.page.read_text()
    assert_is_sound(page)
    text = " ".join(Elements(page).text.split())
    assert headline in text
    assert f"{HOSTILE} {headline} {capacity.reason}" in text
    assert [path.name for path in written.pictures] == ["capacity.png"]


def test_of_sessions_too_no_more_than_was_offered_comes_back() -> None:
    figure = capacity_plot(searched(11.0, turns=4, unit="sessions")).figure
    above, below = figure.axes

    shares = [share for line in below.lines if line.get_marker() != "None"
              for share in np.asarray(line.get_ydata())]  # fmt: skip
    assert max(shares) == pytest.approx(100)
    assert len(shares) == len(searched(11.0).probes)
    assert above.get_xlim()[1] > 4 * 11.0
