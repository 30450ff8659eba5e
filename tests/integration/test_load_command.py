"""`galerne load run` as a person or a CI job runs it, against a simulated engine."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from loadtest import records
from loadtest.about import About
from loadtest.engines import Timing, engine
from loadtest.generator.run import Plan, Result
from loadtest.generator.run import load as generate
from loadtest.generator.target import Target
from loadtest.processes import free_port
from loadtest.verdict.summary import from_json
from loadtest.workload.spec import to_workload
from serving.cli.console import report
from serving.cli.main import app
from serving.errors import ServingError

GALERNE = (sys.executable, "-m", "serving", "load")
TIMING = Timing(overhead_s=0.02, interval_s=0.01)
SHORT = ("--arrivals", "constant:10", "--duration", "2", "--prompt-tokens", "50",
         "--output-tokens", "10")  # fmt: skip


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with engine("sim", TIMING) as server:
        yield server.url


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200", **more}


def load(
    *words: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GALERNE, *map(str, words)], capture_output=True, text=True, timeout=60, check=False,
        env=env or environment(),
    )  # fmt: skip


def run(url: str, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return load("run", "--url", url, "--out", folder, "--json", *words)


def send(url: str, document: Mapping[str, Any], *, num_workers: int = 1) -> Result:
    """What a workload brings, without a report."""
    plan = Plan(Target.parse(url), to_workload(document), num_workers=num_workers)

    async def sending() -> Result:
        return await generate(plan, lambda _moment: None, asyncio.Event())

    return asyncio.run(sending())


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


def write_slo(folder: Path, text: str) -> Path:
    path = folder / "slo.yaml"
    path.write_text(text)
    return path


def test_a_run_ends_in_a_verdict_and_a_report(url: str, tmp_path: Path) -> None:
    slo = write_slo(tmp_path, "request: {ttft_ms: 5000, latency_ms: 20000}")
    done = run(url, tmp_path / "out", *SHORT, "--slo", slo)

    assert done.returncode in (0, 4), done.stderr  # 4: this machine was too busy to say
    line = last_line(done)
    assert (line["requests"], line["completed"], line["failed"]) == (20, 20, 0)
    assert line["ttft_ms"]["p50"] >= 20
    assert line["itl_ms"]["p50"] >= 5
    assert line["goodput_rps"] == pytest.approx(10.0)
    assert line["verdict"] in ("pass", "invalid")
    found = records.read(tmp_path / "out")
    assert found["due_s"].to_list() == pytest.approx([i * 0.1 for i in range(20)])
    assert found["output_tokens"].to_list() == [10] * 20
    assert set(found["itl_s"].list.len()) == {9}
    about = About.read(tmp_path / "out")
    assert about.is_whole
    assert len(about.workers) == 1
    assert "verdict" in (tmp_path / "out" / "report.html").read_text().lower()


def test_an_slo_that_is_not_met_fails(url: str, tmp_path: Path) -> None:
    slo = write_slo(tmp_path, "percentiles: {ttft_ms: {p50: 0.5}}")
    done = run(url, tmp_path / "out", *SHORT, "--slo", slo)

    assert last_line(done)["verdict"] in ("fail", "invalid")
    assert done.returncode in (1, 4)
    checks = from_json((tmp_path / "out" / "summary.json").read_bytes()).checks
    assert any(check.what == "percentiles.ttft_ms.p50" and not check.met for check in checks)


def test_every_dialect_streamed_and_whole(url: str) -> None:
    traffic = {
        f"{dialect}-{'stream' if stream else 'whole'}": {
            "model": "sim", "dialect": dialect, "stream": stream, "arrivals": "constant:2",
            "prompt_tokens": 40, "output_tokens": 8,
        }
        for dialect in ("chat", "completions", "responses", "messages")
        for stream in (True, False)
    }  # fmt: skip
    found = send(url, {"duration_s": 1, "traffic": traffic}).records

    assert found["error"].null_count() == 16
    by_traffic = found.group_by("traffic").agg(pl.len())
    assert by_traffic.height == 8
    assert by_traffic["len"].to_list() == [2] * 8
    # Anthropic's API has no word for going on to the full length.
    assert found["output_tokens"].is_between(1, 8).all()
    openai = found.filter(~pl.col("traffic").str.starts_with("messages"))
    assert openai["output_tokens"].to_list() == [8] * 12
    assert found.filter(pl.col("is_stream"))["ttft_s"].null_count() == 0
    assert found.filter(~pl.col("is_stream"))["ttft_s"].null_count() == 8


def test_two_workers_send_what_one_would(url: str) -> None:
    traffic = {
        "model": "sim", "arrivals": "poisson:20", "prompt_tokens": "uniform:8:64",
        "output_tokens": "uniform:2:12",
    }  # fmt: skip
    document = {"duration_s": 1, "traffic": {"all": traffic}}
    one, two = (send(url, document, num_workers=workers) for workers in (1, 2))

    assert one.records.height > 5
    for column in ("session", "due_s", "prompt_tokens", "output_tokens"):
        assert one.records[column].to_list() == pytest.approx(two.records[column].to_list())
    assert [len(result.about.workers) for result in (one, two)] == [1, 2]


def test_workers_that_others_start(url: str, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    env = environment(GALERNE_LOAD_TOKEN=secrets.token_hex(16))
    stranger = environment(GALERNE_LOAD_TOKEN="wrong")
    words = ("run", "--url", url, "--out", str(tmp_path / "out"), "--json", *SHORT,
             "--workers", "2", "--listen", address)  # fmt: skip
    coordinator = subprocess.Popen(
        [*GALERNE, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        join = ("worker", "--join", f"http://{address}")
        wait_for_the_coordinator(join, stranger)
        workers = [
            subprocess.Popen([*GALERNE, *join], env=env, stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]
        said, complaints = coordinator.communicate(timeout=60)
        assert [worker.wait(10) for worker in workers] == [0, 0]
    finally:
        coordinator.kill()
        coordinator.communicate()

    assert json.loads(said.splitlines()[-1])["completed"] == 20, complaints


def wait_for_the_coordinator(join: tuple[str, ...], stranger: Mapping[str, str]) -> None:
    """Until it refuses a worker that does not have the secret."""
    deadline = time.monotonic() + 30
    while True:
        refused = load(*join, env=stranger)
        assert refused.returncode == 1
        if "401" in refused.stderr:
            return
        assert time.monotonic() < deadline, refused.stderr


def test_ctrl_c_keeps_what_there_is(url: str, tmp_path: Path) -> None:
    words = ("run", "--url", url, "--out", str(tmp_path / "out"), "--json",
             "--arrivals", "constant:20", "--duration", "600", "--output-tokens", "5")  # fmt: skip
    process = subprocess.Popen(
        [*GALERNE, *words], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:  # a line every five seconds
        if "completed" in line and "completed 0" not in line:
            break
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=60)

    assert process.returncode == 130, complaints
    line = json.loads(said.splitlines()[-1])
    assert line["verdict"] == "invalid"
    assert line["completed"] > 0
    assert line["failed"] == 0
    assert not About.read(tmp_path / "out").is_whole
    assert line["goodput_rps"] == pytest.approx(20, rel=0.2)


def mistaken(*words: str) -> tuple[int, str]:
    """Exit code and message of a run that does not begin."""
    done = CliRunner().invoke(app, ["load", "run", *words])
    assert isinstance(done.exception, ServingError), done.output
    return report(done.exception), f"{done.exception.message} ({done.exception.param})"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--url", "ftp://x"), "is no address of an endpoint"),
        (("--url", "http://127.0.0.1:1", "--model", "sim"), "cannot load http://127.0.0.1:1"),
        (("--model", "other"), "does not serve 'other'"),
        (("--trace", "/no/such/trace"), "cannot read /no/such/trace"),
        (("--arrivals", "poison:3"), "'poison:3' is no arrival process"),
        (("--prompt-tokens", "uniform:100:x"), "(--prompt-tokens)"),
        (("--speed", "2"), "--speed and --limit are for a --trace"),
        (("--format", "nonsense"), "--format, --speed and --limit are for a --trace"),
        (("--trace", "x", "--arrivals", "poisson:1"), "either arrivals or a trace (--arrivals)"),
        (("--slo", "/no/such/slo"), "cannot read /no/such/slo"),
        (("--workload", "x.yaml", "--duration", "3"), "leave out the other options"),
        (("--listen", "nowhere"), "'nowhere' is not HOST:PORT"),
        (("--ca-file", "/no/such/ca", "--url", "https://127.0.0.1:1"), "cannot read certificates"),
    ],
)
def test_mistakes_are_named_before_anything_is_sent(
    url: str, tmp_path: Path, words: tuple[str, ...], complaint: str
) -> None:
    code, said = mistaken("--url", url, "--out", str(tmp_path / "out"), *words)

    assert code == 2
    assert complaint in said


def test_results_are_never_written_over(url: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("precious")
    code, said = mistaken("--url", url, "--out", str(tmp_path), *SHORT)

    assert code == 2
    assert "is not empty" in said
    assert (tmp_path / "report.html").read_text() == "precious"


def test_rates_do_not_depend_on_when_the_last_answer_came(url: str) -> None:
    """The last request is due two seconds before the end, and answered at once."""
    traffic = {
        "model": "sim", "arrivals": "constant:0.5", "prompt_tokens": 8, "output_tokens": 1,
        "stream": False,
    }  # fmt: skip
    result = send(url, {"duration_s": 3, "traffic": {"all": traffic}})

    assert result.records["due_s"].to_list() == pytest.approx([0.0, 2.0])
    assert result.about.duration_s == 3.0


def test_a_missing_key_is_named(url: str, tmp_path: Path) -> None:
    workload = tmp_path / "workload.yaml"
    workload.write_text(
        "duration_s: 1\n"
        "traffic:\n"
        "  a: {model: sim, key_env: NO_SUCH_KEY, arrivals: 'constant:1', prompt_tokens: 8,"
        " output_tokens: 8}\n"
    )
    code, said = mistaken("--url", url, "--out", str(tmp_path / "out"), "--workload", str(workload))

    assert code == 2
    assert "NO_SUCH_KEY is not set" in said


def test_what_a_trace_leaves_out_is_told(url: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [{"at_s": 0.1 * i, "prompt_tokens": 8, "output_tokens": i % 2} for i in range(4)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run(url, tmp_path / "out", "--trace", trace, "--format", "galerne")

    assert last_line(done)["requests"] == 2
    assert "2 requests of length 0 are left out of the trace of load" in done.stderr
