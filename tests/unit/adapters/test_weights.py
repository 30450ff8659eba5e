"""Model folders and their manifests, on real files."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import errors as hub

from serving.adapters import weights
from serving.adapters.hub_weights import to_config_error
from serving.adapters.manifest import MANIFEST_NAME, ManifestEntry, verify_manifest, write_manifest
from serving.adapters.state_paths import StatePaths
from serving.errors import ConfigError
from serving.settings.weights import WeightSettings

COMMIT = "a" * 40


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.of(tmp_path / "state", tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder whose manifest is right."""
    folder = tmp_path / "model"
    (folder / "shards").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "shards" / "extra.bin").write_bytes(b"more weights")
    write_manifest(folder)
    return folder


def verify(folder: Path) -> tuple[ManifestEntry, ...]:
    return verify_manifest(folder, folder / MANIFEST_NAME)


def test_a_right_manifest_covers_every_file(model: Path) -> None:
    names = [entry.name for entry in verify(model)]
    assert names == ["config.json", "model.safetensors", "shards/extra.bin"]


def test_the_manifest_is_what_sha256sum_checks(model: Path) -> None:
    check = ["sha256sum", "--check", "--strict", MANIFEST_NAME]
    assert subprocess.run(check, cwd=model, capture_output=True).returncode == 0


def test_verification_reports_bytes_up_to_the_total(model: Path) -> None:
    seen: list[tuple[float | None, float | None]] = []
    verify_manifest(
        model,
        model / MANIFEST_NAME,
        lambda _step, done, total: seen.append((done, total)),
    )
    total_bytes = len(b"{}") + len(b"weights") + len(b"more weights")
    assert seen[0] == (0, total_bytes)
    assert seen[-1] == (total_bytes, total_bytes)


@pytest.mark.parametrize(
    ("tamper", "code", "name"),
    [
        (
            lambda model: (model / "model.safetensors").write_bytes(b"Weights"),
            "weights_mismatch",
            "model.safetensors",
        ),
        (
            lambda model: (model / "shards" / "extra.bin").unlink(),
            "weights_missing",
            "shards/extra.bin",
        ),
        (
            lambda model: (model / "shards" / "evil.PT").write_bytes(b"pickle"),
            "weights_unlisted",
            "shards/evil.PT",
        ),
    ],
)
def test_tampering_is_named(
    model: Path, tamper: Callable[[Path], object], code: str, name: str
) -> None:
    tamper(model)
    with pytest.raises(ConfigError) as caught:
        verify(model)
    assert caught.value.code == code
    assert name in caught.value.message
    assert str(model) not in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_no_weight_need_not_be_listed(model: Path) -> None:
    (model / "README.md").write_text("notes")
    verify(model)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "not a manifest",
        f"{'0' * 63}  model.safetensors",
        f"{'0' * 64}  ../outside.bin",
        f"{'0' * 64}  shards/../../outside.bin",
        f"{'0' * 64}  /etc/passwd",
    ],
)
def test_a_bad_manifest_is_refused(model: Path, text: str) -> None:
    (model / MANIFEST_NAME).write_text(text)
    with pytest.raises(ConfigError) as caught:
        verify(model)
    assert caught.value.code == "weights_manifest_invalid"


def test_an_unreadable_manifest_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        verify_manifest(model, model / "absent")
    assert caught.value.code == "weights_manifest_invalid"


def test_binary_marks_dot_prefixes_and_capitals_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest().upper()
    (tmp_path / "sums").write_text(f"{digest} *./a.bin\n\n")
    entries = verify_manifest(tmp_path, tmp_path / "sums")
    assert entries == (ManifestEntry("a.bin", digest.lower()),)


def test_links_as_model_caches_make_them_are_followed(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(tmp_path / "blob")
    (model / "model.safetensors").symlink_to(tmp_path / "blob")
    verify(model)


def test_a_local_folder_is_resolved_and_verified(model: Path, paths: StatePaths) -> None:
    manifest = model / MANIFEST_NAME
    settings = WeightSettings(source=str(model), sha256_manifest=manifest)
    assert weights.resolve_weights(settings, paths) == model
    (model / "model.safetensors").write_bytes(b"replaced")
    with pytest.raises(ConfigError, match="differs"):
        weights.resolve_weights(settings, paths)


def test_a_manifest_that_comes_with_the_model_must_be_the_pinned_one(
    model: Path, paths: StatePaths
) -> None:
    digest = hashlib.sha256((model / MANIFEST_NAME).read_bytes()).hexdigest()
    settings = WeightSettings(source=str(model), manifest_sha256=digest)
    assert weights.resolve_weights(settings, paths) == model
    (model / "model.safetensors").write_bytes(b"replaced")
    with pytest.raises(ConfigError, match="differs"):
        weights.resolve_weights(settings, paths)
    write_manifest(model)
    with pytest.raises(ConfigError) as caught:
        weights.resolve_weights(settings, paths)
    assert (caught.value.code, caught.value.param) == (
        "weights_manifest_mismatch",
        "weights.manifest_sha256",
    )


def test_mistral_format_folders_are_models(tmp_path: Path, paths: StatePaths) -> None:
    (tmp_path / "params.json").write_text("{}")
    assert weights.resolve_weights(WeightSettings(source=str(tmp_path)), paths) == tmp_path


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, paths: StatePaths, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        weights.resolve_weights(WeightSettings(source=str(tmp_path / name)), paths)
    assert caught.value.code == "weights_not_found"


def test_the_demo_model_must_have_been_finished(paths: StatePaths) -> None:
    folder = weights.demo_folder(paths)
    folder.mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:
        weights.resolve_weights(WeightSettings(source="demo"), paths)
    assert caught.value.code == "demo_model_missing"
    assert "galerne model prepare demo" in caught.value.hint
    write_manifest(folder)
    assert weights.resolve_weights(WeightSettings(source="demo"), paths) == folder


def hub_response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://hub.invalid"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (hub.GatedRepoError("gated", response=hub_response(403)), "weights_gated"),
        (hub.RepositoryNotFoundError("none", response=hub_response(404)), "weights_not_found"),
        (hub.RevisionNotFoundError("none", response=hub_response(404)), "weights_not_found"),
        (hub.LocalEntryNotFoundError("offline"), "weights_unreachable"),
        (hub.HfHubHTTPError("down", response=hub_response(503)), "weights_unreachable"),
        (httpx2.ConnectError("refused"), "weights_unreachable"),
        (OSError(28, "No space left on device"), "disk_full"),
    ],
)
def test_hub_errors_are_translated(error: Exception, code: str) -> None:
    translated = to_config_error(error, "mistralai/Some-Model")
    assert translated.code == code
    assert translated.hint


def test_a_cached_snapshot_needs_no_network(
    tmp_path: Path, paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's own cache layout is enough; its offline switch proves that nothing is fetched."""
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    settings = WeightSettings(source="owner/name", revision=COMMIT)
    assert weights.resolve_weights(settings, paths) == snapshot
    digest = hashlib.sha256(write_manifest(snapshot).read_bytes()).hexdigest()
    pinned = WeightSettings(source="owner/name", revision=COMMIT, manifest_sha256=digest)
    assert weights.resolve_weights(pinned, paths) == snapshot
    (snapshot / "config.json").write_text("{ }")
    with pytest.raises(ConfigError, match="differs"):
        weights.resolve_weights(pinned, paths)
    with pytest.raises(ConfigError) as caught:
        weights.resolve_weights(WeightSettings(source="owner/other", revision=COMMIT), paths)
    assert caught.value.code == "weights_unreachable"


def test_an_adapter_folder_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    weights.check_adapters({"sea": tmp_path})


@pytest.mark.parametrize("name", ["absent", "."])
def test_other_folders_are_no_adapters(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="LoRA adapter 'sea'") as refused:
        weights.check_adapters({"sea": tmp_path / name})
    assert (refused.value.code, refused.value.param) == ("adapter_not_found", "adapters.sea")
