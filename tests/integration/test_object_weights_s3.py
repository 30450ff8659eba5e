"""Weights from object storage over the S3 protocol, as a replica fetches them.

The server is moto's, which checks signatures. Faults of the network come from a server of our own
in `test_object_weights_faults.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from serving.adapters.settings_file import write_settings
from serving.settings.platform import Settings

try:
    import boto3
    import requests
    from moto.server import ThreadedMotoServer
except ImportError as error:
    pytest.skip(f"needs pip install 'moto[server]': {error}", allow_module_level=True)

BUCKET = "models"
PREFIX = "mistral/7b v3"
SOURCE = f"s3://{BUCKET}/{PREFIX}"
FILES = {
    "config.json": b'{"model_type": "mistral"}',
    "model.safetensors": bytes(range(256)) * 100_000,
    "shards/extra.bin": b"more weights" * 100,
}
MANIFEST = "".join(
    f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in FILES.items()
).encode()
DIGEST = hashlib.sha256(MANIFEST).hexdigest()
PINNED = {"source": SOURCE, "manifest_sha256": DIGEST}
SECRET = "TheSecretOfThisTest"

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


@dataclass(frozen=True)
class Storage:
    """An S3 server with one bucket that holds a model."""

    url: str
    client: Any

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}", Body=content)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/{name}")

    def demand_credentials(self) -> None:
        """From now on signatures are checked, against keys that nobody has."""
        requests.post(f"{self.url}/moto-api/reset-auth", data="0", timeout=10).raise_for_status()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").disabled = True
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def storage(server: str) -> Storage:
    requests.post(f"{server}/moto-api/reset", timeout=10).raise_for_status()
    requests.post(f"{server}/moto-api/reset-auth", data="inf", timeout=10).raise_for_status()
    client = boto3.client(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key=SECRET,
    )
    client.create_bucket(Bucket=BUCKET)
    storage = Storage(server, client)
    for name, content in FILES.items():
        storage.put(name, content)
    storage.put("SHA256SUMS", MANIFEST)
    return storage


def environment(home: Path, storage: Storage, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(home),
        "GALERNE_STATE_DIR": str(home / "state"),
        "GALERNE_CACHE_DIR": str(home / "cache"),
        "AWS_ENDPOINT_URL": storage.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        **more,
    }


def resolve(
    home: Path, storage: Storage, settings: Mapping[str, str] = PINNED, **env: str
) -> dict[str, str]:
    """What a replica's process says of its attempt; `text` is everything it printed."""
    result = subprocess.run(
        [sys.executable, "-c", REPLICA, str(home), json.dumps(settings)],
        capture_output=True,
        text=True,
        env=environment(home, storage, **env),
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    told: dict[str, str] = json.loads(result.stdout.splitlines()[-1])
    return told | {"text": result.stdout + result.stderr}


def contents(folder: str) -> dict[str, bytes]:
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def assert_failed(outcome: Mapping[str, str], code: str, storage: Storage) -> None:
    """One `ConfigError` with advice, and neither secret nor address in what it says."""
    assert outcome.get("code") == code, outcome["text"]
    assert outcome["hint"]
    assert SECRET not in outcome["text"]
    assert storage.url not in outcome["message"]


def test_a_model_is_downloaded_and_then_needs_no_storage(storage: Storage, tmp_path: Path) -> None:
    storage.put("pytorch_model.bin", b"an unlisted pickle")
    outcome = resolve(tmp_path, storage)
    assert contents(outcome["folder"]) == {**FILES, "SHA256SUMS": MANIFEST}
    again = resolve(tmp_path, storage, AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert again["folder"] == outcome["folder"]


def test_tampered_weights_are_refused(storage: Storage, tmp_path: Path) -> None:
    storage.put("model.safetensors", bytes(len(FILES["model.safetensors"])))
    outcome = resolve(tmp_path, storage)
    assert_failed(outcome, "weights_mismatch", storage)
    assert "model.safetensors" in outcome["message"]
    assert not list((tmp_path / "cache" / "models").glob("model-*"))


def test_a_tampered_manifest_is_refused(storage: Storage, tmp_path: Path) -> None:
    storage.put("SHA256SUMS", MANIFEST + b"0" * 64 + b"  evil.bin\n")
    assert_failed(resolve(tmp_path, storage), "weights_manifest_mismatch", storage)


def test_a_missing_object_is_named(storage: Storage, tmp_path: Path) -> None:
    storage.delete("shards/extra.bin")
    outcome = resolve(tmp_path, storage)
    assert_failed(outcome, "weights_not_found", storage)
    assert "shards/extra.bin" in outcome["message"]


@pytest.mark.parametrize("source", ["s3://absent/mistral", f"s3://{BUCKET}/absent"])
def test_a_missing_bucket_or_prefix_is_not_found(
    storage: Storage, tmp_path: Path, source: str
) -> None:
    outcome = resolve(tmp_path, storage, PINNED | {"source": source})
    assert_failed(outcome, "weights_not_found", storage)
    assert source in outcome["message"]


def test_credentials_that_storage_refuses_are_the_problem(storage: Storage, tmp_path: Path) -> None:
    storage.demand_credentials()
    outcome = resolve(tmp_path, storage)
    assert_failed(outcome, "weights_credentials_refused", storage)
    assert "AWS_ACCESS_KEY_ID" in outcome["hint"]


def test_plain_http_is_refused_unless_it_is_meant(storage: Storage, tmp_path: Path) -> None:
    outcome = resolve(tmp_path, storage, AWS_ALLOW_HTTP="")
    assert_failed(outcome, "weights_endpoint_insecure", storage)


def test_nobody_listens(storage: Storage, tmp_path: Path) -> None:
    outcome = resolve(tmp_path, storage, AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert_failed(outcome, "weights_unreachable", storage)


def write(home: Path, **models: Any) -> None:
    (home / "state").mkdir()
    write_settings(home / "state" / "settings.json", Settings.model_validate({"models": models}))


def run_fetch(
    home: Path, storage: Storage, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], Any]:
    command = [sys.executable, "-m", "serving", "model", "fetch", *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment(home, storage), timeout=60
    )
    return result, json.loads(result.stdout) if "--json" in arguments else None


def test_fetch_brings_the_weights_of_a_pool(storage: Storage, tmp_path: Path) -> None:
    write(
        tmp_path,
        big={"weights": PINNED, "resources": {"pool": "h100"}},
        simulated={"weights": PINNED, "simulator": {}, "resources": {"pool": "h100"}},
        elsewhere={"weights": {"source": "/absent"}, "resources": {"pool": "l4"}},
    )
    result, told = run_fetch(tmp_path, storage, "--pool", "h100", "--json")
    assert result.returncode == 0, result.stderr
    [model] = told["models"]
    assert (told["ready"], model["model"], model["ready"]) == (True, "big", True)
    assert contents(model["folder"]).items() >= FILES.items()


def test_fetch_tries_all_and_tells_the_first_that_fails(storage: Storage, tmp_path: Path) -> None:
    write(
        tmp_path,
        absent={
            "weights": PINNED | {"source": f"s3://{BUCKET}/absent", "manifest_sha256": "0" * 64}
        },
        local={"weights": {"source": "/absent"}},
        good={"weights": PINNED},
    )
    result, _ = run_fetch(tmp_path, storage)
    assert result.returncode == 2
    assert result.stdout.startswith("ready good ")
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"error s3://{BUCKET}/absent has no SHA256SUMS")
    assert error.endswith("(models.absent.weights.source)")
    assert hint.startswith("hint")
    _, told = run_fetch(tmp_path, storage, "--json")
    assert [model["ready"] for model in told["models"]] == [False, False, True]
    assert told["models"][1]["error"]["code"] == "weights_not_found"
