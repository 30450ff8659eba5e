"""`galerne load capacity`, `compare` and `ab`: what a person decides by."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from loadtest import records
from loadtest.about import About
from loadtest.engines import MODEL, Timing, simulator, simulator_settings
from loadtest.peers.single import serve
from loadtest.processes import free_port
from loadtest.records import Record, frame
from serving.cli.console import report
from serving.cli.load_run import kept
from serving.cli.main import app
from serving.errors import EngineError

NUM_SEQS = 4
# A slow beginning makes moments of this machine small beside what is measured.
TIMING = Timing(overhead_s=0.6, interval_s=0.02)
NUM_TOKENS = 10
"""So that the engine finishes 4 / (10 * 0.02 s) = 20 requests a second."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = {**simulator_settings(TIMING), "engine.max_num_seqs": NUM_SEQS}
    command = simulator(settings, port=free_port())
    with serve("simulated engine", command, MODEL, role="engine") as server:
        yield server.url


def load(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["load", *map(str, words)])


def last_line(done: Result) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


def test_a_capacity_lies_between_what_holds_and_what_does_not(url: str, tmp_path: Path) -> None:
    slo = tmp_path / "slo.yaml"
    slo.write_text("request: {ttft_ms: 1200}\nattainment_ratio: 0.9\n")
    done = load(
        "capacity", "--url", url, "--slo", slo, "--arrivals", "constant:1", "--duration", "7",
        "--output-tokens", NUM_TOKENS, "--prompt-tokens", "8", "--start", "10", "--max", "80",
        "--precision", "0.9", "--repeats", "1", "--out", tmp_path / "out", "--json",
    )  # fmt: skip

    found = last_line(done)
    assert done.exit_code == 0, done.output
    assert found["outcome"] == "found"
    assert found["rate_rps"] < found["failing_rps"] <= 2 * found["rate_rps"]
    assert 10 <= found["rate_rps"] <= 40
    assert {probe["verdict"] for probe in found["probes"]} == {"pass", "fail"}
    assert (tmp_path / "out" / "capacity.html").exists()
    first = records.read(tmp_path / "out" / "probe-01")
    assert first.height == 70
    assert About.read(tmp_path / "out" / "probe-01").rate_scale == pytest.approx(10.0)


def test_a_capacity_is_not_read_from_probes_that_end_before_a_queue_shows(
    url: str, tmp_path: Path
) -> None:
    """All that waits at the end is still answered in time, at any rate."""
    slo = tmp_path / "slo.yaml"
    slo.write_text("request: {ttft_ms: 30000}")
    done = load(
        "capacity", "--url", url, "--slo", slo, "--arrivals", "constant:1", "--duration", "2",
        "--output-tokens", NUM_TOKENS, "--prompt-tokens", "8", "--start", "10",
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip

    found = last_line(done)
    assert (done.exit_code, found["outcome"], found["probes"]) == (1, "none", [])
    assert re.match(
        r"at 10 requests/s 2 s with answers of \S+ s may not show a queue that grows: ",
        found["reason"],
    )


def test_a_capacity_is_not_read_from_a_trace_that_is_over_at_once(url: str, tmp_path: Path) -> None:
    (tmp_path / "slo.yaml").write_text("request: {ttft_ms: 2500}")
    lines = [{"at_s": n, "prompt_tokens": 8, "output_tokens": NUM_TOKENS} for n in range(51)]
    (tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = load(
        "capacity", "--url", url, "--slo", tmp_path / "slo.yaml", "--trace",
        tmp_path / "trace.jsonl", "--format", "galerne", "--start", "200", "--out",
        tmp_path / "out",
    )  # fmt: skip

    assert "the trace is over in 0.255 s" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_two_endpoints_that_are_one_do_not_differ(url: str, tmp_path: Path) -> None:
    done = load(
        "ab", "--url", url, "--other", url + "/v1", "--arrivals", "constant:5", "--duration", "2",
        "--output-tokens", "5", "--prompt-tokens", "8", "--rounds", "2", "--out", tmp_path / "out",
        "--max-regression", "3",
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "comparison.html").exists()
    folders = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert folders == {"a-1", "a-2", "b-1", "b-2"}
    assert "ttft_ms.p50" in done.output


def write_run(folder: Path, *, title: str, factor: float, num_failed: int = 0) -> Path:
    """A made-up result, `factor` times as slow as another one."""
    rng = np.random.default_rng(1)
    ttft_s = rng.lognormal(np.log(0.2), 0.5, 600) * factor
    made = [
        Record(
            session=index,
            turn=0,
            traffic="all",
            model="m",
            is_stream=True,
            due_s=index * 0.1,
            send_lag_s=0.0001,
            planned_output_tokens=11,
            ignore_eos=True,
            ttft_s=float(seconds),
            latency_s=float(seconds) + 0.5,
            itl_s=array("f", [0.05] * 10).tobytes(),
            output_tokens=11,
            status=200,
            error="engine_lost" if index < num_failed else None,
        )
        for index, seconds in enumerate(ttft_s)
    ]
    folder.mkdir()
    records.write(frame(made), folder)
    about = About(
        url="http://x", title=title, started_at="2026-11-23T06:00:00+00:00", duration_s=60.0,
        seed=0, workload={"seed": 0},
    )  # fmt: skip
    about.write(folder)
    return folder


def test_a_certain_regression_fails_the_gate(tmp_path: Path) -> None:
    before = write_run(tmp_path / "before", title="before", factor=1.0)
    after = write_run(tmp_path / "after", title="after", factor=1.3)
    same = write_run(tmp_path / "same", title="same", factor=1.0)

    worse = load("compare", before, after, "--json", "--out", tmp_path / "out")
    assert worse.exit_code == 1, worse.output
    gate = last_line(worse)["gate"]
    assert not gate["passed"]
    assert any("ttft_ms.p50" in reason for reason in gate["reasons"])
    assert (tmp_path / "out" / "comparison.html").exists()
    assert load("compare", before, same).exit_code == 0
    allowed = ("--tolerance", "ttft_ms=1.5", "--max-regression", "1.2")
    assert load("compare", before, after, *allowed).exit_code == 0


def test_failures_fail_the_gate(tmp_path: Path) -> None:
    before = write_run(tmp_path / "before", title="before", factor=1.0)
    after = write_run(tmp_path / "after", title="after", factor=1.0, num_failed=60)

    done = load("compare", before, after)

    assert done.exit_code == 1
    assert "failed_ratio" in done.output


@pytest.mark.parametrize("name", ["records.parquet", "run.json"])
@pytest.mark.parametrize("content", [b"", b"PAR1 and more", b"\xff\xfe{}"])
def test_damaged_results_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    same = write_run(tmp_path / "same", title="same", factor=1.0)
    damaged = write_run(tmp_path / "damaged", title="damaged", factor=1.0)
    (damaged / name).write_bytes(content)
    done = load("compare", same, damaged)

    assert f"{damaged} holds no result of a load test" in str(done.exception)


def test_records_of_something_else_are_named(tmp_path: Path) -> None:
    same = write_run(tmp_path / "same", title="same", factor=1.0)
    foreign = write_run(tmp_path / "foreign", title="foreign", factor=1.0)
    pl.DataFrame({"a": [1]}).write_parquet(foreign / records.RECORDS_FILE)
    done = load("compare", same, foreign)

    assert f"{foreign} holds no result of a load test" in str(done.exception)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), pl.exceptions.ComputeError("No space left")]
)
def test_results_that_cannot_be_written_are_no_wrong_usage(error: Exception) -> None:
    complaint = "cannot write results to out: No space left"
    with pytest.raises(EngineError, match=complaint) as caught, kept(Path("out")):
        raise error
    assert report(caught.value) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("/no/such/a", "/no/such/b"), "holds no result of a load test"),
        (("same", "same", "--tolerance", "ttft"), "'ttft' is not FIGURE=RATIO"),
        (("same", "same", "--tolerance", "nothing=2"), "nothing"),
    ],
)
def test_mistakes_of_a_comparison_are_named(
    tmp_path: Path, words: tuple[str, ...], complaint: str
) -> None:
    same = write_run(tmp_path / "same", title="same", factor=1.0)
    done = load("compare", *(same if word == "same" else word for word in words))

    assert done.exit_code != 0
    assert complaint in str(done.exception)
