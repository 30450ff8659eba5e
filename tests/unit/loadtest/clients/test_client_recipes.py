"""What other clients are started with, and where their figures stand."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.clients import aiperf, galerne, locust, vllm_bench
from loadtest.clients.base import Client, FailedError, Figures, Load, Spread, measure
from loadtest.clients.registry import OTHERS

LOAD = Load(
    url="http://127.0.0.1:8000",
    model="demo",
    tokenizer=Path("/models/demo"),
    rate_rps=6.0,
    num_requests=48,
    prompt_tokens=128,
    output_tokens=32,
)
README = Path(aiperf.__file__).parents[1] / "README.md"


@pytest.mark.parametrize("client", [galerne.CLIENT, *OTHERS], ids=lambda client: client.name)
def test_the_documentation_has_every_option(client: Client, tmp_path: Path) -> None:
    words = [str(word) for word in client.command(LOAD, tmp_path)]
    options = {word for word in words if word.startswith("--")}
    section = README.read_text().partition("## Other clients")[2]

    assert options - set(section.split()) - FOR_SCRIPTS == set()


FOR_SCRIPTS = {"--out", "--only-summary", "--result-dir", "--result-filename", "--save-result"}
FOR_SCRIPTS |= {"--csv", "--output-artifact-dir", "--ui", "--headless", "--stop-timeout"}
FOR_SCRIPTS |= {"--percentile-metrics", "--metric-percentiles"}


def test_the_key_of_aiperf_comes_from_the_environment() -> None:
    config = yaml.safe_load(aiperf.CONFIG.read_text())

    assert config["benchmark"]["endpoint"]["api_key"] == "${GALERNE_API_KEY}"


def test_users_of_locust_send_the_load_together(tmp_path: Path) -> None:
    words = [str(word) for word in locust.command(LOAD, tmp_path)]
    users = int(words[words.index("--users") + 1])

    assert users * float(words[words.index("--user-rate") + 1]) == pytest.approx(6.0)
    assert words[words.index("--run-time") + 1] == "10s"


def test_vllm_bench(tmp_path: Path) -> None:
    figures = {
        f"{figure}_{name}_ms": value
        for name, scale in (("ttft", 100), ("itl", 10), ("tpot", 1))
        for figure, value in (("mean", scale), ("p50", 2 * scale), ("p99", 3 * scale))
    }
    _write(tmp_path / "result.json", {"completed": 48, "failed": 1, **figures})

    assert vllm_bench.read_result(tmp_path) == FIGURES


def test_aiperf(tmp_path: Path) -> None:
    result = {
        "request_count": {"avg": 48.0},
        "error_summary": [{"count": 1}],
        "time_to_first_token": {"avg": 100, "p50": 200, "p99": 300},
        "inter_chunk_latency": {"avg": 10, "p50": 20, "p99": 30},
        "inter_token_latency": {"avg": 1, "p50": 2, "p99": 3},
    }
    _write(tmp_path / "profile_export_aiperf.json", result)

    assert aiperf.read_result(tmp_path) == FIGURES


def test_locust(tmp_path: Path) -> None:
    (tmp_path / "run_stats.csv").write_text(
        "Type,Name,Request Count,Failure Count,Average Response Time,50%,99%\n"
        "POST,/v1/chat/completions,49,1,9,9,9\n"
        "ms,ITL,99,0,10,20,30\n"
        "ms,TPOT,48,0,1,2,3\n"
        "ms,TTFT,48,0,100,200,300\n"
        ",Aggregated,49,1,9,9,9\n"
    )

    assert locust.read_result(tmp_path) == FIGURES


FIGURES = Figures(
    completed=48,
    failed=1,
    ttft_ms=Spread(100, 200, 300),
    itl_ms=Spread(10, 20, 30),
    tpot_ms=Spread(1, 2, 3),
)


def test_a_client_that_fails_is_quoted_without_the_key() -> None:
    says_its_key = "import os; print('no', os.environ['KEY']); raise SystemExit(3)"
    client = Client(
        "loud",
        lambda: "1.0",
        lambda load, folder: [sys.executable, "-c", says_its_key],
        lambda folder: FIGURES,
        key_variable="KEY",
    )

    with pytest.raises(FailedError, match="loud: no …"):
        measure(client, LOAD, key="sk-secret")


def _write(file: Path, document: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(document))
