"""An upgrade that comes up, and then keeps its SLO or breaks it, as Prometheus tells."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import kube_platform as made
import pytest
import yaml
from kube_api.server import running_kube_api
from kube_platform import MODEL, Operated

Counts = tuple[int, int]
"""Bad events and all events."""


@contextmanager
def answering(counts: Callable[[], Counts | None]) -> Iterator[str]:
    """A server that answers instant queries as Prometheus does; without counts, with 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (query,) = parse_qs(urlsplit(self.path).query)["query"]
            found = counts()
            if found is None:
                self.send_error(503)
                return
            value = found[0] if 'result="bad"' in query else found[1]
            row = {"metric": {"model": MODEL, "slo": "ttft"}, "value": [0, str(value)]}
            body = {"status": "success", "data": {"resultType": "vector", "result": [row]}}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    with running_kube_api() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path / "config")))
        platform = Operated(api)
        platform.install()
        yield platform


def upgrade(
    platform: Operated, folder: Path, counts: Callable[[], Counts | None]
) -> tuple[int, str]:
    value = {key: v for key, v in made.service(image="galerne:2").items() if key != "status"}
    value["metadata"] = {"name": "galerne"}
    file = folder / "service.yaml"
    file.write_text(yaml.safe_dump(value))
    platform.steps = [
        lambda: platform.set_status(made.ready_status(1, cluster="galerne-b")),
    ]
    platform.always = platform.serve_once_back
    with answering(counts) as url:
        return platform.run("upgrade", str(file), "--force", "--prometheus", url)


def image_of(platform: Operated) -> str:
    head = platform.service["spec"]["rayClusterConfig"]["headGroupSpec"]
    return str(head["template"]["spec"]["containers"][0]["image"])


@pytest.mark.parametrize("counts", [(0, 0), (0, 1000), (10, 1000), (10, 20)])
def test_a_version_that_keeps_its_slo_stays(
    installed: Operated, tmp_path: Path, counts: Counts
) -> None:
    code, output = upgrade(installed, tmp_path, lambda: counts)
    assert code == 0, output
    assert image_of(installed) == "galerne:2"
    assert installed.now_s >= 300


def test_one_that_breaks_it_is_taken_back(installed: Operated, tmp_path: Path) -> None:
    code, output = upgrade(installed, tmp_path, lambda: (400, 1000))
    assert code == 1
    assert f"taken back: {MODEL}: 40% of first tokens are late, 40 times" in output
    assert image_of(installed) == "galerne:1"
    assert installed.now_s < 60


def test_without_prometheus_nothing_is_changed(installed: Operated, tmp_path: Path) -> None:
    code, output = upgrade(installed, tmp_path, lambda: None)
    assert code == 1
    assert "does not answer" in output
    assert image_of(installed) == "galerne:1"


def test_a_prometheus_that_fails_for_a_while_is_asked_again(
    installed: Operated, tmp_path: Path
) -> None:
    asked: list[int] = []

    def counts() -> Counts | None:
        asked.append(1)
        return None if 2 < len(asked) < 20 else (0, 1000)

    code, output = upgrade(installed, tmp_path, counts)
    assert code == 0, output
    assert image_of(installed) == "galerne:2"
