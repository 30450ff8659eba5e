"""What the command takes, and what it says of what is left out."""

from pathlib import Path

import pytest

from loadtest.benches import scaleout as bench
from loadtest.figures import Line
from loadtest.scenarios import scaleout
from loadtest.scenarios.__main__ import SCENARIOS, named_stage, parser
from loadtest.scenarios.stage import Simulated
from loadtest.workload.spec import to_workload
from serving.errors import ConfigError

URL = ["--url", "http://127.0.0.1:9/v1"]


def test_every_scenario_is_a_command() -> None:
    names = ("baseline", "soak", "spike", "overload", "scaleout", "neighbour", "failover")

    assert {*SCENARIOS, scaleout.NAME} == set(names)
    for name in names:
        assert parser().parse_args([name, "--json"]).scenario == name


def test_a_named_endpoint_takes_its_shape_from_the_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GALERNE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("MY_KEY", "k")
    (tmp_path / "slo.yaml").write_text("request: {ttft_ms: 500}\n")
    words = ["spike", *URL, "--model", "m", "--capacity", "4", "--key-env", "MY_KEY"]
    words += ["--prompt-tokens", "uniform:10:20", "--slo", str(tmp_path / "slo.yaml")]

    stage = named_stage(parser().parse_args(words))

    assert (stage.target.url, stage.key, stage.capacity_rps) == ("http://127.0.0.1:9", "k", 4.0)
    assert stage.commands is None
    assert stage.slo.request is not None
    traffic = {"load": stage.traffic(SCENARIOS["spike"].plan.arrivals(stage.capacity_rps))}
    assert to_workload({"traffic": traffic}).planned_s() == 85.0


@pytest.mark.parametrize("given", [["--model", "m"], ["--capacity", "4"]])
def test_a_named_endpoint_needs_its_model_and_capacity(given: list[str]) -> None:
    with pytest.raises(ConfigError, match="is required with --url"):
        named_stage(parser().parse_args(["baseline", *URL, *given]))


@pytest.mark.parametrize("capacity", ["0", "-3", "nan", "inf"])
def test_a_capacity_is_a_rate(capacity: str) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        named_stage(parser().parse_args(["spike", *URL, "--model", "m", "--capacity", capacity]))


def test_an_endpoint_without_an_slo_is_held_to_what_is_promised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GALERNE_STATE_DIR", str(tmp_path))

    stage = named_stage(parser().parse_args(["spike", *URL, "--model", "m", "--capacity", "4"]))

    assert stage.slo.request is not None
    assert stage.slo.request.ttft_ms == 2000


def test_a_simulated_platform_is_sized_and_takes_further_settings() -> None:
    words = Simulated(num_sequences=32, settings=["gateway.replicas=2"]).words()

    assert "gateway.queue_timeout_s=1" in words
    assert words[-2:] == ["--set", "gateway.replicas=2"]


def test_scaling_out_is_judged_by_its_worst_efficiency() -> None:
    plan = scaleout.Plan(bench.Plan(replicas=(1, 2, 4)))
    lines = [
        Line("goodput", bench.subject_name(1), 100.0, "chunks/s"),
        Line("efficiency", bench.subject_name(2), 0.97, "ratio"),
        Line("efficiency", bench.subject_name(4), 0.8, "ratio"),
        Line("failed streams", bench.subject_name(4), 0.0, "streams"),
    ]

    finding = scaleout.judge(lines, plan)

    assert finding.verdict == "fail"
    assert finding.reasons == ("efficiency of galerne, 4 replicas is 0.8, less than 0.9",)


def test_a_fleet_that_did_not_come_up_is_no_pass() -> None:
    finding = scaleout.judge([], scaleout.Plan(bench.Plan(replicas=(1, 2))))

    assert finding.verdict == "fail"
    assert "nothing was measured" in finding.reasons[0]
