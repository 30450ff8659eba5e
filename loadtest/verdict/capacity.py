"""The highest rate that still meets an SLO, found by trying rates.

Pure: whoever asks runs the probes and tells what they came to.

    search = CapacitySearch(start_rps=1.0, max_rps=1000.0)
    while (rate_rps := search.next_rate()) is not None:
        search.tell(
            rate_rps, verdict_at(rate_rps),
            offered_rps=offered_at(rate_rps), goodput_rps=goodput_at(rate_rps),
        )
    print(search.result())
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from loadtest.verdict.summary import Verdict
from serving.errors import ConfigError

Outcome = Literal["found", "at least", "none", "unsettled"]
"""`found`: `rate_rps` holds, and a little more does not. `at least`: it holds, and no more could be
tried. `none`: no rate is known to hold. `unsettled`: probes contradict each other, or were ended
before they told enough."""

Unit = Literal["requests", "sessions"]
"""What a rate counts. A session of several turns is several requests."""

LOWEST_SHARE = 1 / 64
"""How far below `start_rps` is searched."""

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""Below which Student's t stays with 97.5 %, for 1, 2, … degrees of freedom.

Source: NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A run at one rate, and what it came to. `rate_rps` is what was asked for, in the unit of the
    search; `offered_rps` are the requests a second that were due. `notes`: what is to be known of
    it besides."""

    rate_rps: float
    verdict: Verdict
    offered_rps: float
    goodput_rps: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Interval:
    """The mean of repeats, and between which values it lies with 95 %, if they are normal."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a server can take.

    `rate_rps` is the highest rate that held in most of its probes, below `failing_rps`, the lowest
    that did not; each is `None` where there is none. Both count what `unit` says. `goodput_rps` is
    of all probes at `rate_rps` whose generator kept up, in requests a second, `None` for fewer than
    two. `reason` says in words why the search ended, and what is to be known of a probe at
    `rate_rps`.
    """

    outcome: Outcome
    rate_rps: float | None
    failing_rps: float | None
    goodput_rps: Interval | None
    reason: str
    probes: tuple[Probe, ...]
    unit: Unit = "requests"

    def offered_at(self, rate_rps: float) -> float:
        """Requests a second that were due in the probes of a rate, on average."""
        return statistics.fmean(
            probe.offered_rps for probe in self.probes if probe.rate_rps == rate_rps
        )


class CapacitySearch:
    """Doubles the rate until it does not hold, halves the gap between, and repeats both its ends.

    A rate holds if most of its probes pass. So neither a lucky probe nor an unlucky one decides: an
    end that does not stand its repeats moves, and the search goes on from there. It is over at the
    latest after twice the probes that it takes where none contradicts another.

    Args:
        start_rps: the first rate, above 0. If it does not hold, lower ones are tried.
        max_rps: the highest rate that is tried.
        precision_ratio: how far the rate that does not hold may be above the one that does, above
            0.
        repeats: probes of the rate that is found.
        unit: what the rates count.

    Raises:
        ConfigError: these make no search.

    >>> search = CapacitySearch(1.0, 100.0, precision_ratio=0.5, repeats=1)
    >>> while (rate_rps := search.next_rate()) is not None:
    ...     verdict = "pass" if rate_rps <= 5 else "fail"
    ...     search.tell(rate_rps, verdict, offered_rps=rate_rps, goodput_rps=min(rate_rps, 5.0))
    >>> [probe.rate_rps for probe in search.result().probes]
    [1.0, 2.0, 4.0, 8.0, 5.656854249492381]
    >>> search.result().rate_rps
    4.0
    """

    def __init__(
        self,
        start_rps: float,
        max_rps: float,
        *,
        precision_ratio: float = 0.05,
        repeats: int = 3,
        unit: Unit = "requests",
    ) -> None:
        _check(start_rps, max_rps, precision_ratio, repeats)
        self._start_rps = start_rps
        self._lowest_rps = start_rps * LOWEST_SHARE
        self._max_rps = max_rps
        self._widest = 1 + precision_ratio
        self._repeats = repeats
        self._unit: Unit = unit
        self._probes: list[Probe] = []
        self._ended: str | None = None

    @property
    def most_probes(self) -> int:
        """After how many probes the search is over, whatever they say."""
        steps = math.log2(self._max_rps / self._lowest_rps)
        halvings = max(math.log2(math.log(2) / math.log(self._widest)), 0.0)
        return 2 * (1 + math.ceil(steps) + math.ceil(halvings) + 2 * self._repeats)

    def next_rate(self) -> float | None:
        """The rate to try next, the same until its probe is told; `None` when there is none."""
        if self._ended is not None or self._is_invalid or len(self._probes) >= self.most_probes:
            return None
        return self._wanted()

    def num_tried(self, rate_rps: float) -> int:
        """How many probes of this rate there were."""
        return sum(probe.rate_rps == rate_rps for probe in self._probes)

    def end(self, reason: str) -> None:
        """No further rate can be tried, and this is why."""
        self._ended = reason

    def tell(
        self,
        rate_rps: float,
        verdict: Verdict,
        *,
        offered_rps: float,
        goodput_rps: float,
        notes: tuple[str, ...] = (),
    ) -> None:
        """What a run at the rate asked for came to. One that the generator was the bottleneck of
        ends the search, which cannot tell more.

        Raises:
            ConfigError: the run had no SLO.
        """
        if verdict == "none":
            raise ConfigError("a capacity takes an SLO to meet", code="slo_missing", param="slo")
        if rate_rps != self.next_rate():
            raise ValueError(f"{rate_rps} is not the rate that was asked for")
        self._probes.append(Probe(rate_rps, verdict, offered_rps, goodput_rps, notes))

    def result(self) -> Capacity:
        """What is known so far."""
        holding, failing = _ends(self._votes())
        outcome, reason = self._outcome(holding, failing)
        told = [probe for probe in self._probes if probe.verdict != "invalid"]
        at_holding = [probe for probe in told if probe.rate_rps == holding]
        goodput = interval([probe.goodput_rps for probe in at_holding])
        notes = next((probe.notes for probe in at_holding if probe.notes), ())
        return Capacity(
            outcome,
            holding,
            failing,
            goodput,
            "; ".join((reason, *notes)),
            tuple(self._probes),
            self._unit,
        )

    @property
    def _is_invalid(self) -> bool:
        return bool(self._probes) and self._probes[-1].verdict == "invalid"

    def _votes(self) -> dict[float, _Votes]:
        """What the probes of each rate say, by rate."""
        votes: dict[float, _Votes] = {}
        for probe in self._probes:
            if probe.verdict != "invalid":
                before = votes.get(probe.rate_rps, _Votes(0, 0))
                votes[probe.rate_rps] = before.plus(is_pass=probe.verdict == "pass")
        return votes

    def _wanted(self) -> float | None:
        """The rate whose probe tells most; `None` if all that is asked is known."""
        votes = self._votes()
        for rate, so_far in votes.items():
            if so_far.is_tied and so_far.num < self._repeats:
                return rate
        holding, failing = _ends(votes)
        further = self._further(holding, failing)
        if further is not None:
            return further
        ends = [rate for rate in (holding, failing) if rate is not None]
        return next((rate for rate in ends if votes[rate].takes_more(self._repeats)), None)

    def _further(self, holding: float | None, failing: float | None) -> float | None:
        """A rate that was not tried yet; `None` if the ends are as near as was asked for."""
        if holding is None and failing is None:
            return self._start_rps
        if failing is None:
            assert holding is not None
            return min(2 * holding, self._max_rps) if holding < self._max_rps else None
        if holding is None:
            return max(failing / 2, self._lowest_rps) if failing > self._lowest_rps else None
        return math.sqrt(holding * failing) if failing > holding * self._widest else None

    def _outcome(self, holding: float | None, failing: float | None) -> tuple[Outcome, str]:
        known: Outcome = "none" if holding is None else "at least"
        if self._ended is not None:
            return known, "; ".join((*self._known(holding, failing), self._ended))
        if self._is_invalid:
            return (
                known,
                f"the generator was the bottleneck at {self._of(self._probes[-1].rate_rps)}",
            )
        if self._wanted() is not None:
            return "unsettled", f"the search was ended after {len(self._probes)} probes"
        if holding is None:
            return "none", f"even {self._of(failing)}, the least that is tried, do not hold"
        if failing is None:
            return "at least", f"{self._of(holding)}, the most that is tried, hold"
        return "found", f"{self._of(holding)} hold, {failing:.4g} do not"

    def _known(self, holding: float | None, failing: float | None) -> Iterator[str]:
        if holding is not None:
            yield f"{self._of(holding)} hold"
        if failing is not None:
            yield f"{self._of(failing)} do not"

    def _of(self, rate_rps: float | None) -> str:
        return f"{rate_rps:.4g} {self._unit}/s"


class _Votes(NamedTuple):
    """Probes of one rate, and how many of them passed."""

    passed: int
    num: int

    def plus(self, *, is_pass: bool) -> _Votes:
        return _Votes(self.passed + is_pass, self.num + 1)

    @property
    def holds(self) -> bool:
        return 2 * self.passed > self.num

    @property
    def is_tied(self) -> bool:
        return 2 * self.passed == self.num

    def takes_more(self, repeats: int) -> bool:
        """Whether the rate, if it holds, has fewer probes than are asked for, or else whether the
        ones left could make it hold."""
        left = repeats - self.num
        return left > 0 and (self.holds or 2 * (self.passed + left) > repeats)


def _ends(votes: Mapping[float, _Votes]) -> tuple[float | None, float | None]:
    """The highest rate that holds below the lowest that does not."""
    failing = min((rate for rate, of_rate in votes.items() if not of_rate.holds), default=math.inf)
    holding = max((rate for rate in votes if rate < failing), default=None)
    return holding, None if failing == math.inf else failing


def interval(values: Sequence[float]) -> Interval | None:
    """The mean of independent measurements with Student's interval; `None` of fewer than two.

    >>> interval([4.0, 4.0])
    Interval(mean=4.0, low=4.0, high=4.0)
    """
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    t = _T_975[min(len(values) - 1, len(_T_975)) - 1]
    beyond = t * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - beyond, mean + beyond)


def _check(start_rps: float, max_rps: float, precision_ratio: float, repeats: int) -> None:
    given = {"start_rps": start_rps, "precision_ratio": precision_ratio, "repeats": repeats}
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise _no_search(name, f"must be above 0, not {value:g}")
    if not start_rps <= max_rps < math.inf:
        raise _no_search("max_rps", f"must be at least start_rps, {start_rps:g}, not {max_rps:g}")


def _no_search(param: str, problem: str) -> ConfigError:
    return ConfigError(f"{param} {problem}", code="search_invalid", param=param)
