"""`galerne sim calibrate` against a running `galerne sim serve`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from simulated_engine import simulated_engine

from loadtest.processes import free_port
from serving.settings.simulator import TimingSettings

TIMING = {
    "step_s": 0.02,
    "prefill_tokens_per_s": 4000,
    "decode_s_per_sequence": 0.001,
    "attention_s_per_token": 5e-6,
    "overhead_s": 0.02,
}
LIMITS = ("--chunk-tokens", "256", "--window", "512")
GALERNE = (sys.executable, "-m", "serving")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    settings = {
        **{f"simulator.timing.{name}": value for name, value in TIMING.items()},
        "simulator.sliding_window": 512,
        "simulator.kv_blocks": 4000,
        "engine.max_model_len": 4096,
        "engine.max_num_batched_tokens": 256,
        "engine.max_num_seqs": 64,
    }
    with simulated_engine(settings) as url:
        yield url


def calibrate(url: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GALERNE, "sim", "calibrate", "--endpoint", url, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_timing_that_was_set_is_found(endpoint: str) -> None:
    done = calibrate(f"{endpoint}/v1/", "--model", "sim", *LIMITS, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    found = TimingSettings(**document["timing"])
    assert found.step_s == pytest.approx(TIMING["step_s"], rel=0.05)
    assert found.prefill_tokens_per_s == pytest.approx(TIMING["prefill_tokens_per_s"], rel=0.05)
    assert found.decode_s_per_sequence == pytest.approx(TIMING["decode_s_per_sequence"], rel=0.1)
    assert found.attention_s_per_token == pytest.approx(TIMING["attention_s_per_token"], rel=0.1)
    # What the simulator's own HTTP interface takes is measured, too.
    assert TIMING["overhead_s"] * 0.9 < found.overhead_s < TIMING["overhead_s"] + 0.01
    assert document["fit"]["worst_error_ratio"] < 0.05
    assert "round 1" in done.stderr


class Answers(BaseHTTPRequestHandler):
    """Lists the model `m` and answers completions in one piece, or refuses the key."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != "Bearer right":
            self._answer(401, {"error": {"message": "no"}})
        else:
            self._answer(200, {"data": [{"id": "m"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, {"choices": [{"text": "a"}]})

    def _answer(self, status: int, document: dict[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's)
        pass


@contextmanager
def other_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def assert_one_line_and_hint(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error", "hint"))]
    assert [line.split()[0] for line in errors] == ["error", "hint"]
    assert message in errors[0]


def test_what_is_wrong_is_said_in_one_line(endpoint: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with other_server() as other:
        wrong, right = {"SOME_KEY": "wrong"}, {"SOME_KEY": "right"}
        with_key = ("--model", "m", "--api-key-env", "SOME_KEY")
        for done, message in (
            (calibrate(nobody, "--model", "m"), "does not answer"),
            (calibrate("not a url", "--model", "m"), "does not answer"),
            (calibrate(endpoint, "--model", "other"), "has no model 'other'"),
            (calibrate(endpoint, *with_key), "holds no API key"),
            (calibrate(other, "--model", "m"), "asks for an API key"),
            (calibrate(other, *with_key, **wrong), "does not accept the API key"),
            (calibrate(other, *with_key, **right), "answers in one piece"),
        ):
            assert_one_line_and_hint(done, message)
            assert "wrong" not in done.stderr


def test_the_yaml_is_settings() -> None:
    """What is printed can be merged as it is."""
    from serving.adapters.settings_loader import load_settings
    from serving.cli.sim import timing_document

    printed = yaml.safe_dump(timing_document("sim", TimingSettings(step_s=0.5)))
    override = [f"models={json.dumps(yaml.safe_load(printed)['models'])}"]
    settings = load_settings(preset="sim", config=None, environ={}, overrides=override)
    simulator = settings.models["sim"].simulator
    assert simulator is not None
    assert simulator.timing.step_s == 0.5
