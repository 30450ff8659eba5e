"""Some of the load tests' scenarios, short, on one simulated platform."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from loadtest.scenarios import failover, overload, soak
from loadtest.scenarios.stage import Simulated, Stage, simulated
from loadtest.verdict.slo import RequestLimits, Slo

FLEET = Simulated()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with simulated(FLEET) as running:
        # A machine that others use is late now and then; what is tested here is the scenarios.
        yield replace(running, slo=Slo(request=RequestLimits(ttft_ms=3000), failed_ratio=1.0))


def test_a_soak_watches_every_process(stage: Stage, tmp_path: Path) -> None:
    finding = soak.run(stage, soak.Plan(duration_s=4.0), tmp_path)

    roles = finding.figures["roles"]
    assert set(roles) == {"engine", "gateway", "haproxy", "ray"}
    assert roles["engine"]["rss_mib"] > roles["haproxy"]["rss_mib"] > 1
    assert finding.figures["ended"] == finding.figures["failed_ratio"] == 0
    samples = pl.read_parquet(tmp_path / "processes.parquet")
    assert samples["at_s"].max() > 3
    assert {"report.html", "processes.png"} <= {path.name for path in tmp_path.iterdir()}


def test_overload_is_refused_with_a_hint(stage: Stage, tmp_path: Path) -> None:
    plan = overload.Plan(first_ratio=1.1, most_ratio=1.1, probe_s=3.0, overload_s=5.0, factor=4.0)

    finding = overload.run(stage, plan, tmp_path)

    assert finding.figures["refused"] > 0
    assert finding.figures["refused_without_retry_after"] == finding.figures["broken"] == 0
    assert finding.figures["longest_s"] < 10
    json.dumps(finding.line())


def test_a_replica_dies_and_nothing_fails(stage: Stage, tmp_path: Path) -> None:
    plan = failover.Plan(duration_s=8.0, kill_after_s=1.0, window_s=2.0)

    finding = failover.run(stage, plan, tmp_path)

    assert finding.figures["errors"] == {}
    assert finding.figures["killed_s"] >= 1.0
    assert finding.figures["worst_gap_ms"] > FLEET.step_s * 1000
