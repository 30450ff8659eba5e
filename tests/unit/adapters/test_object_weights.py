"""Models in object storage: what is fetched, kept and refused. On a store in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from serving.adapters.manifest import MANIFEST_NAME
from serving.adapters.object_download import PIECE_BYTES
from serving.adapters.object_store import ModelStore
from serving.adapters.object_weights import fetch_files, fetch_model
from serving.errors import ConfigError
from serving.settings.weights import WeightSettings

SOURCE = "s3://models/mistral"
FILES = {
    "config.json": b'{"model_type": "mistral"}',
    "tokenizer.json": b"{}",
    "empty.jinja": b"",
    "model.safetensors": b"weights" * 1000,
    "shards/extra.bin": b"more weights",
}


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()]
    return "".join(lines).encode()


class Bucket(ModelStore):
    """A prefix in memory that remembers what was read."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.objects = MemoryStore()
        super().__init__(SOURCE, self.objects)
        self.reads: list[str] = []
        for name, content in files.items():
            self.put(name, content)

    def put(self, name: str, content: bytes) -> None:
        obstore.put(self.objects, name, content)

    def read(self, name: str, start: int, end: int) -> memoryview:
        self.reads.append(name)
        return super().read(name, start, end)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket({**FILES, MANIFEST_NAME: manifest_of(FILES)})


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models"


def pinned(files: Mapping[str, bytes] = FILES, **more: Any) -> WeightSettings:
    digest = hashlib.sha256(manifest_of(files)).hexdigest()
    return WeightSettings(source=SOURCE, manifest_sha256=digest, **more)


def fetch(bucket: ModelStore, model_dir: Path, settings: WeightSettings | None = None) -> Path:
    return fetch_model(settings or pinned(), model_dir, open_store=lambda _: bucket)


def out_of_reach(_source: str) -> ModelStore:
    raise AssertionError("storage was asked")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(call: Callable[[], object], code: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.code == code, caught.value
    assert caught.value.hint
    return caught.value


def partial_folder(model_dir: Path) -> Path:
    [found] = model_dir.glob(".*.partial")
    return found


def finished(model_dir: Path) -> list[Path]:
    return [path for path in model_dir.iterdir() if not path.name.startswith(".")]


def test_the_listed_files_are_fetched_and_no_others(bucket: Bucket, model_dir: Path) -> None:
    bucket.put("pytorch_model.bin", b"pickle")
    folder = fetch(bucket, model_dir)
    assert contents(folder) == {**FILES, MANIFEST_NAME: manifest_of(FILES)}
    assert finished(model_dir) == [folder]
    assert [path.name for path in model_dir.iterdir() if path != folder] == [f".{folder.name}.lock"]


def test_a_file_of_several_pieces_is_put_together_in_order(model_dir: Path) -> None:
    big = bytes(PIECE_BYTES) + b"middle" + bytes(PIECE_BYTES) + b"end"
    files = FILES | {"model.safetensors": big}
    bucket = Bucket({**files, MANIFEST_NAME: manifest_of(files)})
    folder = fetch(bucket, model_dir, pinned(files))
    assert (folder / "model.safetensors").read_bytes() == big
    assert bucket.reads.count("model.safetensors") == 3


def test_a_fetched_model_is_checked_without_asking_storage(bucket: Bucket, model_dir: Path) -> None:
    folder = fetch(bucket, model_dir)
    assert fetch_model(pinned(), model_dir, open_store=out_of_reach) == folder


def test_progress_counts_the_bytes_of_all_files(bucket: Bucket, model_dir: Path) -> None:
    seen: list[tuple[str, float | None, float | None]] = []
    fetch_model(pinned(), model_dir, lambda *told: seen.append(told), open_store=lambda _: bucket)
    total_bytes = sum(map(len, FILES.values()))
    assert seen[-1] == ("ready", total_bytes, total_bytes)
    assert {total for _, _, total in seen} == {total_bytes}
    assert [done for _, done, _ in seen] == sorted(done or 0 for _, done, _ in seen)


def test_other_bytes_than_listed_are_refused_and_the_rest_is_kept(
    bucket: Bucket, model_dir: Path
) -> None:
    bucket.put("model.safetensors", b"Weights" * 1000)
    error = refused(lambda: fetch(bucket, model_dir), "weights_mismatch")
    assert "model.safetensors" in error.message
    assert finished(model_dir) == []
    assert not list(model_dir.glob(".*.half*"))
    bucket.put("model.safetensors", FILES["model.safetensors"])
    bucket.reads.clear()
    assert contents(fetch(bucket, model_dir)).items() >= FILES.items()
    assert set(bucket.reads) == {MANIFEST_NAME, "model.safetensors", "shards/extra.bin"}


def test_a_shortened_object_is_refused(bucket: Bucket, model_dir: Path) -> None:
    bucket.put("model.safetensors", FILES["model.safetensors"][:-1])
    refused(lambda: fetch(bucket, model_dir), "weights_mismatch")


def test_a_manifest_that_was_replaced_is_refused_before_any_file(
    bucket: Bucket, model_dir: Path
) -> None:
    bucket.put("model.safetensors", b"evil")
    bucket.put(MANIFEST_NAME, manifest_of(FILES | {"model.safetensors": b"evil"}))
    error = refused(lambda: fetch(bucket, model_dir), "weights_manifest_mismatch")
    assert error.param == "weights.manifest_sha256"
    assert bucket.reads == [MANIFEST_NAME]


def test_a_manifest_of_this_machine_needs_none_in_storage(model_dir: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "trusted.sha256"
    manifest.write_bytes(manifest_of(FILES))
    settings = WeightSettings(source=SOURCE, sha256_manifest=manifest)
    folder = fetch(Bucket(FILES), model_dir, settings)
    assert contents(folder).items() >= FILES.items()
    assert fetch_model(pinned(), model_dir, open_store=out_of_reach) == folder


def test_a_manifest_of_this_machine_must_be_the_pinned_one_if_both_are_given(
    bucket: Bucket, model_dir: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "other.sha256"
    manifest.write_bytes(manifest_of({"config.json": b"x"}))
    settings = pinned(sha256_manifest=manifest)
    refused(lambda: fetch(bucket, model_dir, settings), "weights_manifest_mismatch")


@pytest.mark.parametrize("name", [MANIFEST_NAME, "model.safetensors"])
def test_what_is_missing_is_named(bucket: Bucket, model_dir: Path, name: str) -> None:
    obstore.delete(bucket.objects, name)
    error = refused(lambda: fetch(bucket, model_dir), "weights_not_found")
    assert f"{SOURCE} has no {name}" in error.message
    assert finished(model_dir) == []


def test_a_manifest_without_a_configuration_is_no_model(model_dir: Path) -> None:
    files = {"model.safetensors": b"x"}
    bucket = Bucket({**files, MANIFEST_NAME: manifest_of(files)})
    refused(lambda: fetch(bucket, model_dir, pinned(files)), "weights_not_found")


def test_a_later_call_goes_on_where_an_interrupted_one_was(bucket: Bucket, model_dir: Path) -> None:
    obstore.delete(bucket.objects, "shards/extra.bin")
    refused(lambda: fetch(bucket, model_dir), "weights_not_found")
    partial = partial_folder(model_dir)
    (partial / "config.json").write_bytes(FILES["config.json"])
    (partial / "model.safetensors").write_bytes(b"spoilt by a power cut")
    half = partial.with_name(partial.name.replace(".partial", ".half-0"))
    half.write_bytes(b"half a fi")
    bucket.put("shards/extra.bin", FILES["shards/extra.bin"])
    bucket.reads.clear()
    assert contents(fetch(bucket, model_dir)).items() >= FILES.items()
    assert "config.json" not in bucket.reads
    assert "model.safetensors" in bucket.reads
    assert not half.exists()


def test_an_unlisted_weight_file_among_the_fetched_ones_is_refused(
    bucket: Bucket, model_dir: Path
) -> None:
    obstore.delete(bucket.objects, "shards/extra.bin")
    refused(lambda: fetch(bucket, model_dir), "weights_not_found")
    (partial_folder(model_dir) / "evil.pt").write_bytes(b"pickle")
    bucket.put("shards/extra.bin", FILES["shards/extra.bin"])
    refused(lambda: fetch(bucket, model_dir), "weights_unlisted")
    assert finished(model_dir) == []


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "weights_mismatch"),
        (lambda folder: (folder / "config.json").unlink(), "weights_missing"),
        (lambda folder: (folder / "evil.pt").write_bytes(b"x"), "weights_unlisted"),
        (lambda folder: (folder / MANIFEST_NAME).write_bytes(b""), "weights_manifest_mismatch"),
    ],
)
def test_a_model_that_changed_on_the_disk_is_refused(
    bucket: Bucket, model_dir: Path, tamper: Callable[[Path], object], code: str
) -> None:
    folder = fetch(bucket, model_dir)
    tamper(folder)
    error = refused(lambda: fetch(bucket, model_dir), code)
    assert str(folder) in error.hint
    assert str(folder) not in error.message


def test_a_tokenizer_comes_without_weights(bucket: Bucket, model_dir: Path) -> None:
    patterns = ("*.json", "*.jinja")

    def tokenizer() -> Path:
        return fetch_files(pinned(), model_dir, patterns, open_store=lambda _: bucket)

    folder = tokenizer()
    assert set(contents(folder)) == {
        "config.json", "tokenizer.json", "empty.jinja", MANIFEST_NAME
    }  # fmt: skip
    bucket.reads.clear()
    assert tokenizer() == folder
    assert bucket.reads == []
    (folder / "tokenizer.json").write_bytes(b"other")
    refused(tokenizer, "weights_mismatch")
    whole = fetch(bucket, model_dir)
    assert tokenizer() == whole != folder


class Huge(Bucket):
    def size_bytes(self, name: str) -> int:
        return 2**62 if name == "model.safetensors" else super().size_bytes(name)


def test_a_disk_without_room_is_told_before_the_download(model_dir: Path) -> None:
    bucket = Huge({**FILES, MANIFEST_NAME: manifest_of(FILES)})
    refused(lambda: fetch(bucket, model_dir), "disk_full")
    assert set(bucket.reads) == {MANIFEST_NAME}


def test_an_unusable_cache_is_told(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    refused(lambda: fetch(bucket, tmp_path / "models"), "model_cache_unusable")


@pytest.mark.parametrize(
    ("scheme", "endpoint", "switch"),
    [
        ("s3", "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP"),
        ("s3", "AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP"),
        ("gs", "GOOGLE_BASE_URL", "GOOGLE_ALLOW_HTTP"),
        ("az", "AZURE_STORAGE_ENDPOINT", "AZURE_ALLOW_HTTP"),
    ],
)
def test_plain_http_must_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, scheme: str, endpoint: str, switch: str
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    environment = {endpoint: "http://minio.internal:9000"}
    source = f"{scheme}://models/mistral"
    error = refused(lambda: ModelStore.open(source, environment), "weights_endpoint_insecure")
    assert f"{switch}=true" in error.hint
    ModelStore.open(source, environment | {switch: "true"})
    ModelStore.open(source, {endpoint: "https://minio.internal:9000"})


def test_settings_of_storage_that_are_missing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    error = refused(lambda: ModelStore.open("az://models/x", {}), "weights_unreachable")
    assert "AZURE_STORAGE_ACCOUNT_NAME" in error.hint
