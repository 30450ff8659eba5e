"""The replicas of a load test's report, from a real Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from prometheus_tools import running_prometheus

from loadtest.about import About
from loadtest.generator.run import Result
from loadtest.processes import free_port
from loadtest.records import frame
from loadtest.verdict.summarize import summarize
from serving.cli.load_run import Outcome, with_replicas

PAGE = b"""\
galerne_gateway_replicas{model="demo", state="heard"} 3
galerne_gateway_replicas{model="demo", state="lost"} 1
galerne_gateway_replicas{model="other", state="heard"} 5
"""


@contextmanager
def gateway() -> Iterator[int]:
    """The port of something that shows a gateway's metrics."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def outcome(begun: float, duration_s: float) -> Outcome:
    about = About(
        url="http://x",
        title="t",
        started_at=datetime.fromtimestamp(begun, UTC).isoformat(timespec="milliseconds"),
        duration_s=duration_s,
        seed=0,
        workload={"traffic": {"a": {"model": "demo"}}},
    )
    records = frame([])
    return Outcome(
        Result(about, records), summarize(records, duration_s=duration_s, slo=None, workers=())
    )


def test_a_report_knows_how_many_replicas_served(tmp_path: Path) -> None:
    begun = time.time()
    with gateway() as first, gateway() as second:
        job = {
            "job_name": "galerne",
            "static_configs": [{"targets": [f"127.0.0.1:{first}", f"127.0.0.1:{second}"]}],
        }
        config = tmp_path / "prometheus.yml"
        config.write_text(
            yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]})
        )
        port = free_port()
        with running_prometheus(config, port=port) as prometheus:
            wanted = 'count(galerne_gateway_replicas{model="demo", state="heard"}) == 2'
            while not prometheus.query(wanted):
                assert time.time() - begun < 60
                time.sleep(0.2)  # between scrapes
            run = outcome(begun, time.time() + 1 - begun)
            replicas = with_replicas(run, f"http://127.0.0.1:{port}").result.about.replicas

    assert replicas
    assert {count for _, count in replicas} == {3}
    assert all(0 <= at_s <= 61 for at_s, _ in replicas)


def test_no_prometheus_takes_nothing_from_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run = outcome(time.time(), 10.0)

    assert with_replicas(run, "http://127.0.0.1:1") == run
    assert "does not answer" in capsys.readouterr().err
