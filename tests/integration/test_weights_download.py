"""`resolve_weights` as a replica runs it, in a process of its own, against a fake Hugging Face hub.

The fake speaks plain HTTP downloads, with large files on another origin as the hub's CDN is.
It does not speak Xet, the hub's chunked storage, which has a client of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import pytest

SOURCE = "owner/model"
GATED = "owner/gated"
COMMIT = "c0" * 20
TOKEN = "hf_GoodTokenOfThisTest"
STRANGER = "hf_TokenWithoutAccess"
WEIGHTS = "model.safetensors"
SHARD = "shards/extra.bin"
FILES = {
    "config.json": b'{"model_type": "mistral"}',
    WEIGHTS: bytes(range(256)) * 1024,
    SHARD: b"more weights" * 100,
}
CLIENT_CHUNK_BYTES = 10 * 1024 * 1024
"""What the hub client writes at once; of a cut download it keeps whole chunks."""
NOBODY = "http://127.0.0.1:1"
PROMPTLY_S = 10.0
"""Well under the 23 s that the hub client spends on retries when nothing answers."""

REPLICA = """
import json, sys, traceback
from pathlib import Path
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import resolve_weights
from serving.errors import ConfigError
from serving.settings.weights import WeightSettings
home, settings = Path(sys.argv[1]), WeightSettings.model_validate_json(sys.argv[2])
try:
    folder = resolve_weights(settings, StatePaths.of(home / "state", home / "cache"))
except ConfigError as error:
    traceback.print_exc()
    print(json.dumps({"code": error.code, "message": error.message, "hint": error.hint}))
else:
    print(json.dumps({"folder": str(folder)}))
"""

Fault = Literal["none", "cut", "cut and vanish", "shorten", "replace", "hang", "unavailable"]
"""What goes wrong with weight files: the connection is closed halfway, once or with no byte ever
after; a proxy answers with half the file as if it were whole; other bytes of the same length.
Or with every answer: none ever comes, or only 503."""


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    authorization: str | None
    range: str | None


@dataclass
class Hub:
    """The state of a fake hub, which a test may change between two calls."""

    port: int = 0
    fault: Fault = "none"
    files: dict[str, bytes] = field(default_factory=FILES.copy)
    num_weight_gets: int = 0
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cdn_url(self) -> str:
        return f"http://localhost:{self.port}/cdn"


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.hub = hub
        self.stopping = threading.Event()


class HubHandler(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a download of one revision needs.

    Source: huggingface_hub 2.4.0, `_snapshot_download.py`, `file_download.py`, `utils/_http.py`.
    """

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return cast(HubServer, self.server).hub

    @property
    def token(self) -> str | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    def log_message(self, *_: object) -> None:
        """The tests look at `Hub.asked` instead."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        headers = self.headers
        asked = Asked(self.command, path, headers.get("Authorization"), headers.get("Range"))
        self.hub.asked.append(asked)
        if self.hub.fault == "hang":
            cast(HubServer, self.server).stopping.wait()
            self.close_connection = True
        elif self.hub.fault == "unavailable":
            self._answer(503)
        elif path.startswith("/cdn/"):
            self._send_weights(path.removeprefix("/cdn/"))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            self._send_listing(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._send_file(*match.groups())
        else:
            self._answer(404)

    def _send_listing(self, repo: str, kind: str, revision: str) -> None:
        if self._refused(repo, revision):
            return
        info = {"id": repo, "sha": revision, "gated": "manual" if repo == GATED else False}
        body = json.dumps(
            info if kind == "revision" else [_to_entry(*file) for file in self.hub.files.items()]
        )
        self._answer(200, body.encode(), {"Content-Type": "application/json"})

    def _send_file(self, repo: str, revision: str, name: str) -> None:
        if self._refused(repo, revision):
            return
        if repo == GATED and self.token != TOKEN:
            self._answer(401 if self.token is None else 403, b"", {"X-Error-Code": "GatedRepo"})
            return
        commit = {"X-Repo-Commit": revision}
        content = self.hub.files[name]
        if name in (WEIGHTS, SHARD):
            linked = {
                "Location": f"{self.hub.cdn_url}/{name}",
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
            }
            self._answer(302, b"", commit | linked)
        else:
            self._answer(200, content, commit | {"ETag": f'"{_git_id(content)}"'})

    def _refused(self, repo: str, revision: str) -> bool:
        """Whether the answer was an error; the hub hides what a stranger may not know of."""
        if self.token not in (None, TOKEN, STRANGER):
            self._answer(
                401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"}
            )
        elif repo not in (SOURCE, GATED):
            self._answer(401 if self.token is None else 404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision != COMMIT:
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            return False
        return True

    def _send_weights(self, name: str) -> None:
        hub, whole = self.hub, self.hub.files[name]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        content = whole[start:]
        headers = {"Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}"} if start else {}
        if name == WEIGHTS:
            hub.num_weight_gets += 1
            if hub.fault == "cut and vanish" and hub.num_weight_gets > 1:
                self.close_connection = True
                return
            if hub.fault in ("cut", "cut and vanish") and hub.num_weight_gets == 1:
                self._answer(200, content[: len(content) // 2], num_promised_bytes=len(content))
                self.close_connection = True
                return
            if hub.fault == "shorten":
                content = content[: len(content) // 2]
            elif hub.fault == "replace":
                content = bytes(len(content))
        self._answer(206 if start else 200, content, headers)

    def _answer(
        self,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        num_promised_bytes: int | None = None,
    ) -> None:
        self.send_response(HTTPStatus(status))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        num_bytes = len(body) if num_promised_bytes is None else num_promised_bytes
        self.send_header("Content-Length", str(num_bytes))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _to_entry(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
    entry["oid"] = _git_id(content)
    if name in (WEIGHTS, SHARD):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
    return entry


@dataclass(frozen=True)
class Outcome:
    """What became of one call. `text` is all that the process printed, tracebacks included."""

    code: str | None
    folder: Path | None
    message: str
    hint: str
    text: str
    took_s: float


@dataclass(frozen=True)
class Replica:
    """A machine with its own Hugging Face home."""

    home: Path
    hub: Hub
    server: HubServer

    @property
    def cache(self) -> Path:
        return self.home / "hf" / "hub"

    def resolve(
        self,
        source: str = SOURCE,
        *,
        revision: str = COMMIT,
        manifest: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Outcome:
        settings = {"source": source, "revision": revision}
        if manifest is not None:
            settings["sha256_manifest"] = str(manifest)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HF_HOME": str(self.home / "hf"),
            "HF_ENDPOINT": self.hub.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **(env or {}),
        }
        command = [sys.executable, "-c", REPLICA, str(self.home), json.dumps(settings)]
        began = time.monotonic()
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=60
        )
        took_s = time.monotonic() - began
        assert result.returncode == 0, result.stderr
        told = json.loads(result.stdout.splitlines()[-1])
        return Outcome(
            code=told.get("code"),
            folder=Path(told["folder"]) if "folder" in told else None,
            message=told.get("message", ""),
            hint=told.get("hint", ""),
            text=result.stdout + result.stderr,
            took_s=took_s,
        )

    def disconnect(self) -> None:
        """Nothing listens at the hub's address any more."""
        self.server.stopping.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    hub = Hub()
    server = HubServer(hub)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    replica = Replica(tmp_path, hub, server)
    yield replica
    replica.disconnect()
    thread.join()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest of the files as their author made them."""
    path = tmp_path / "SHA256SUMS"
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in FILES.items()]
    path.write_text("".join(lines))
    return path


def contents(folder: Path | None) -> dict[str, bytes]:
    assert folder is not None
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def assert_failed(outcome: Outcome, code: str, replica: Replica) -> None:
    """One `ConfigError` with advice, and neither token, path nor address in what it says."""
    assert outcome.code == code, outcome.text
    assert outcome.hint
    assert TOKEN not in outcome.text
    assert str(replica.home) not in outcome.message
    assert str(replica.hub.port) not in outcome.message


def blobs(replica: Replica) -> list[int]:
    """Sizes of everything that the cache holds as downloaded, or half downloaded."""
    return sorted(path.stat().st_size for path in replica.cache.glob("*/blobs/*"))


def test_a_pinned_revision_is_downloaded_and_matches_its_manifest(
    replica: Replica, manifest: Path
) -> None:
    outcome = replica.resolve(manifest=manifest)
    assert contents(outcome.folder) == FILES
    assert outcome.folder is not None
    assert outcome.folder.name == COMMIT
    assert replica.cache in outcome.folder.parents
    assert all(asked.authorization is None for asked in replica.hub.asked)


def test_a_downloaded_revision_needs_no_network(replica: Replica) -> None:
    first = replica.resolve()
    num_asked = len(replica.hub.asked)
    replica.disconnect()
    again = replica.resolve()
    assert again.folder == first.folder
    assert contents(again.folder) == FILES
    assert len(replica.hub.asked) == num_asked


def test_files_that_someone_else_fetched_do_not_make_a_whole_model(replica: Replica) -> None:
    """A tokenizer alone, say, leaves a snapshot folder without a word on what it lacks."""
    snapshot = replica.cache / "models--owner--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(FILES["config.json"])
    assert contents(replica.resolve().folder) == FILES


def test_a_cache_copied_without_its_listing_serves_a_machine_without_network(
    replica: Replica,
) -> None:
    snapshot = replica.cache / "models--owner--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(FILES["config.json"])
    replica.disconnect()
    outcome = replica.resolve()
    assert outcome.folder == snapshot
    assert outcome.took_s < PROMPTLY_S


def test_replaced_weights_are_found_by_the_manifest(replica: Replica, manifest: Path) -> None:
    """The hub client compares lengths only, so this is what the manifest is for."""
    replica.hub.fault = "replace"
    outcome = replica.resolve(manifest=manifest)
    assert_failed(outcome, "weights_mismatch", replica)
    assert WEIGHTS in outcome.message


def test_the_token_opens_a_gated_model_and_stays_with_the_hub(replica: Replica) -> None:
    outcome = replica.resolve(GATED, env={"HF_TOKEN": TOKEN})
    assert contents(outcome.folder) == FILES
    assert TOKEN not in outcome.text
    to_cdn = [asked for asked in replica.hub.asked if asked.path.startswith("/cdn/")]
    to_hub = [asked for asked in replica.hub.asked if asked not in to_cdn]
    assert {asked.authorization for asked in to_hub} == {f"Bearer {TOKEN}"}
    assert {asked.authorization for asked in to_cdn} == {None}


@pytest.mark.parametrize("env", [{}, {"HF_TOKEN": STRANGER}])
def test_a_gated_model_is_named_as_such(replica: Replica, env: dict[str, str]) -> None:
    outcome = replica.resolve(GATED, env=env)
    assert_failed(outcome, "weights_gated", replica)
    assert STRANGER not in outcome.text


@pytest.mark.parametrize(
    ("source", "revision", "env"),
    [
        ("owner/absent", COMMIT, {"HF_TOKEN": TOKEN}),
        (SOURCE, "d" * 40, {}),
    ],
    ids=["repository", "revision"],
)
def test_what_does_not_exist_is_not_found(
    replica: Replica, source: str, revision: str, env: dict[str, str]
) -> None:
    outcome = replica.resolve(source, revision=revision, env=env)
    assert_failed(outcome, "weights_not_found", replica)
    assert source in outcome.message


def test_a_token_that_the_hub_does_not_know_is_the_problem(replica: Replica) -> None:
    """The hub refuses such a token even for public models."""
    outcome = replica.resolve(env={"HF_TOKEN": "hf_Expired"})
    assert_failed(outcome, "weights_token_refused", replica)
    assert "hf_Expired" not in outcome.text


def test_nobody_listens(replica: Replica) -> None:
    replica.disconnect()
    outcome = replica.resolve(env={"HF_TOKEN": TOKEN})
    assert_failed(outcome, "weights_unreachable", replica)
    assert outcome.took_s < PROMPTLY_S


@pytest.mark.parametrize("fault", ["hang", "unavailable"])
def test_the_hub_does_not_work(replica: Replica, fault: Fault) -> None:
    replica.hub.fault = fault
    outcome = replica.resolve(env={"HF_TOKEN": TOKEN, "HF_HUB_ETAG_TIMEOUT": "1"})
    assert_failed(outcome, "weights_unreachable", replica)
    assert outcome.took_s < PROMPTLY_S


def test_the_offline_switch_is_obeyed(replica: Replica) -> None:
    assert_failed(replica.resolve(env={"HF_HUB_OFFLINE": "1"}), "weights_unreachable", replica)
    assert replica.hub.asked == []


def test_a_cut_download_is_resumed(replica: Replica) -> None:
    replica.hub.files[WEIGHTS] = big = random.Random(0).randbytes(3 * CLIENT_CHUNK_BYTES)
    replica.hub.fault = "cut"
    assert contents(replica.resolve().folder) == FILES | {WEIGHTS: big}
    ranges = [asked.range for asked in replica.hub.asked if asked.path == f"/cdn/{WEIGHTS}"]
    assert ranges == [None, f"bytes={CLIENT_CHUNK_BYTES}-"]


def test_a_shortened_file_is_refused_until_a_later_call_gets_it_whole(replica: Replica) -> None:
    replica.hub.fault = "shorten"
    assert_failed(replica.resolve(), "weights_unreachable", replica)
    assert len(FILES[WEIGHTS]) // 2 not in blobs(replica)
    gone = replica.resolve(env={"HF_ENDPOINT": NOBODY})
    assert_failed(gone, "weights_unreachable", replica)
    assert gone.took_s < PROMPTLY_S
    replica.hub.fault = "none"
    assert contents(replica.resolve().folder) == FILES


def test_a_hub_that_vanishes_halfway_leaves_no_half_file(replica: Replica) -> None:
    replica.hub.fault = "cut and vanish"
    outcome = replica.resolve()
    assert_failed(outcome, "weights_unreachable", replica)
    assert len(FILES[WEIGHTS]) // 2 not in blobs(replica)
    assert outcome.took_s < 2 * PROMPTLY_S
