"""Processes that leak, end or only fill their pools."""

import math
from pathlib import Path

import polars as pl
import psutil

from loadtest.scenarios import sampling
from loadtest.scenarios.pictures import processes
from loadtest.scenarios.sampling import Watched
from loadtest.scenarios.soak import Plan, judge
from loadtest.verdict.summary import Check

PLAN = Plan()


def _watched(role: str, *, mib_per_hour: float = 0.0, fds_per_hour: float = 0.0) -> Watched:
    at_s = [6.0 * number for number in range(300)]
    wave = [math.sin(number) for number in range(300)]
    return Watched(
        role,
        psutil.Process(),
        at_s=at_s,
        rss_mib=[300 + mib_per_hour * s / 3600 + w for s, w in zip(at_s, wave, strict=True)],
        num_fds=[int(50 + fds_per_hour * s / 3600 + w) for s, w in zip(at_s, wave, strict=True)],
    )


def _missed(watched: list[Watched]) -> list[Check]:
    return [check for check in judge(watched, PLAN)[1] if not check.met]


def test_steady_processes_pass_with_their_figures_by_role() -> None:
    figures, checks = judge([_watched("gateway"), _watched("engine"), _watched("engine")], PLAN)

    assert all(check.met for check in checks)
    assert figures["roles"]["engine"]["processes"] == 2
    assert abs(figures["roles"]["engine"]["rss_mib_per_hour"]) < 1
    assert figures["roles"]["gateway"]["rss_mib"] > 290


def test_one_leaking_process_among_steady_ones_fails() -> None:
    (missed,) = _missed([_watched("engine"), _watched("gateway", mib_per_hour=60)])

    assert (missed.what, missed.measured) == ("processes whose memory leaks", 1)


def test_leaking_descriptors_fail() -> None:
    (missed,) = _missed([_watched("haproxy", fds_per_hour=600)])

    assert missed.what == "processes whose open files leak"


def test_a_process_of_the_request_path_must_not_end() -> None:
    ended, worker = _watched("engine"), _watched("ray")
    ended.has_ended = worker.has_ended = True

    (missed,) = _missed([ended, worker])

    assert (missed.what, missed.measured) == ("processes that ended", 1)


def test_a_run_too_short_to_tell_does_not_pass() -> None:
    process = _watched("gateway")
    process.at_s, process.rss_mib, process.num_fds = (
        process.at_s[:9], process.rss_mib[:9], process.num_fds[:9],
    )  # fmt: skip

    assert [check.measured for check in _missed([process])] == [None, None]


def test_samples_are_taken_of_this_process_and_kept(tmp_path: Path) -> None:
    own = psutil.Process().pid
    with sampling.watching({"test": frozenset({own})}, period_s=60.0) as watched:
        pass
    sampling.write(watched, tmp_path / "processes.parquet")

    kept = pl.read_parquet(tmp_path / "processes.parquet")
    assert kept.columns == ["role", "pid", "at_s", "rss_mib", "num_fds"]
    assert kept.row(0)[:2] == ("test", own)
    assert kept["rss_mib"][0] > 10
    assert kept["num_fds"][0] > 2


def test_a_process_that_has_ended_is_noted(tmp_path: Path) -> None:
    process = psutil.Popen(["true"])
    watched = Watched("ray", psutil.Process(process.pid))
    process.wait()

    watched.take(1.0)

    assert watched.has_ended
    assert not watched.at_s


def test_each_role_has_a_colour_of_its_own() -> None:
    plot = processes([_watched("engine"), _watched("engine"), _watched("gateway")])

    colours = [line.get_color() for line in plot.figure.axes[0].get_lines()]
    assert colours[0] == colours[1] != colours[2]
