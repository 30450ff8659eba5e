"""Golden prompts against an endpoint that answers, errs or is not there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from serving.adapters.golden_prompts import GoldenPrompt, first_failure, read_golden_prompts
from serving.errors import ConfigError


class Endpoint(BaseHTTPRequestHandler):
    """Answers every prompt with Paris; knows one model and one key."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = asked["model"] == "m" and self.headers["Authorization"] == "Bearer k"
        answer = {"choices": [{"message": {"content": "It is Paris."}}]}
        body = json.dumps(answer).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_first_wrong_answer_is_told(endpoint: str) -> None:
    right = GoldenPrompt("m", "Capital of France?", "paris", "k")
    assert first_failure(endpoint, [right]) is None
    wrong = GoldenPrompt("m", "Capital of Italy?", "Rome", "k")
    assert first_failure(endpoint, [right, wrong]) == "golden prompt to m: the answer lacks 'Rome'"
    unknown = GoldenPrompt("other", "Hello", "Hello", "k")
    assert first_failure(endpoint, [unknown]) == "golden prompt to other: HTTP 404"


def test_an_endpoint_that_is_down_fails_the_prompt() -> None:
    failure = first_failure("http://127.0.0.1:1", [GoldenPrompt("m", "x", "x")])
    assert failure is not None
    assert "refused" in failure


def test_prompts_come_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "golden.yaml"
    file.write_text("- {model: m, prompt: Hello, contains: hi}")
    (prompt,) = read_golden_prompts(file, api_key="k")
    assert prompt == GoldenPrompt("m", "Hello", "hi", "k")
    assert "k" not in repr(prompt).replace("key", "")
    for wrong in ("- {model: m}", "5", "- 5"):
        file.write_text(wrong)
        with pytest.raises(ConfigError):
            read_golden_prompts(file, api_key="k")
