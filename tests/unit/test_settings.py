"""The settings tree: closed, frozen, documented; sources of weights are pinned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serving.settings.gateway import GatewaySettings, LimitSettings
from serving.settings.model import ModelSettings
from serving.settings.platform import Settings
from serving.settings.weights import WeightSettings

COMMIT = "2dcff66eac0c01dc50e4c41eea959968232187fe"


def _settings(**models: dict[str, Any]) -> Settings:
    tree = {name: {"weights": {"source": "demo"}, **model} for name, model in models.items()}
    return Settings.model_validate({"models": tree})


def _properties() -> Iterator[tuple[str, str, dict[str, Any]]]:
    schema = Settings.model_json_schema()
    for name, section in {"Settings": schema, **schema["$defs"]}.items():
        for field, described in section["properties"].items():
            yield name, field, described


@pytest.mark.parametrize(("section", "field", "described"), list(_properties()))
def test_every_setting_is_described(section: str, field: str, described: dict[str, Any]) -> None:
    is_section = "$ref" in described
    assert is_section or described.get("description"), f"{section}.{field} has no docstring"


@pytest.mark.parametrize("section", Settings.model_json_schema()["$defs"])
def test_every_section_is_closed(section: str) -> None:
    assert Settings.model_json_schema()["$defs"][section]["additionalProperties"] is False


def test_settings_are_frozen() -> None:
    settings = _settings(a={})
    with pytest.raises(ValidationError):
        settings.gateway.replicas = 2  # type: ignore[misc]


def test_at_least_one_model_is_needed() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        Settings.model_validate({"models": {}})


@pytest.mark.parametrize("source", ["demo", "/models/x", "./x", "../x", "~/x"])
def test_local_sources_need_no_revision(source: str) -> None:
    weights = WeightSettings(source=source)
    assert weights.is_local == (source != "demo")


@pytest.mark.parametrize(
    ("source", "revision", "problem"),
    [
        ("mistralai/Mistral-7B-v0.3", None, "needs revision"),
        ("mistralai/Mistral-7B-v0.3", "main", "pattern"),
        ("mistralai/Mistral-7B-v0.3", COMMIT.upper(), "pattern"),
        ("demo", COMMIT, "Hugging Face ids only"),
        ("/models/x", COMMIT, "Hugging Face ids only"),
        ("mistral", None, "neither"),
        ("a/b/c", COMMIT, "neither"),
        ("https://example.org/x", COMMIT, "neither"),
        ("", None, "neither"),
    ],
)
def test_weights_must_be_pinned(source: str, revision: str | None, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        WeightSettings(source=source, revision=revision)


def test_hugging_face_source_with_a_commit() -> None:
    assert not WeightSettings(source="mistralai/Mistral-7B-v0.3", revision=COMMIT).is_local


@pytest.mark.parametrize(
    "source", ["s3://models", "s3://models/a/b c/v1.0/", "gs://m/x", "az://m/x"]
)
def test_object_storage_is_pinned_by_its_manifest(source: str) -> None:
    assert WeightSettings(source=source, manifest_sha256="0" * 64).is_object_storage
    assert not WeightSettings(source=source, sha256_manifest=Path("/sums")).is_on_hub
    with pytest.raises(ValidationError, match="needs manifest_sha256: what `sha256sum SHA256SUMS`"):
        WeightSettings(source=source)
    with pytest.raises(ValidationError, match="Hugging Face ids only"):
        WeightSettings(source=source, manifest_sha256="0" * 64, revision=COMMIT)


@pytest.mark.parametrize(
    "source",
    [
        "s3://", "s3:///x", "s3://key:secret@models/x", "s3://models/../x", "s3://models/a//b",
        "s3://models/x?versionId=1", "s3://models/x\n", "gs://models/./x", "az://models/x#y",
    ],
)  # fmt: skip
def test_object_storage_is_bucket_and_prefix_only(source: str) -> None:
    with pytest.raises(ValidationError, match="bucket and prefix only"):
        WeightSettings(source=source, manifest_sha256="0" * 64)


@pytest.mark.parametrize("digest", ["0" * 63, "A" * 64, "main"])
def test_a_manifest_digest_is_64_lower_case_hex_digits(digest: str) -> None:
    with pytest.raises(ValidationError, match="manifest_sha256"):
        WeightSettings(source="/models/x", manifest_sha256=digest)


@pytest.mark.parametrize("name", ["a", "mistral-7b-v0.3", "owner/name:tag", "A_1", "x" * 128])
def test_model_names(name: str) -> None:
    assert name in _settings(**{name: {}}).models


@pytest.mark.parametrize("name", ["", "-a", "a b", "é", "x" * 129, "a\n", "a\nb", "../a"])
def test_bad_model_names(name: str) -> None:
    if name == "a\n":
        assert "a" in _settings(**{name: {}}).models  # surrounding white space is dropped
        return
    with pytest.raises(ValidationError):
        _settings(**{name: {}})


@pytest.mark.parametrize("other", ["a", "b"])
def test_adapter_names_are_not_taken(other: str) -> None:
    with pytest.raises(ValidationError, match="is taken"):
        _settings(a={"adapters": {other: "/x"}}, b={})


def test_two_models_may_not_share_an_adapter_name() -> None:
    with pytest.raises(ValidationError, match=r"models\.b\.adapters\.x"):
        _settings(a={"adapters": {"x": "/x"}}, b={"adapters": {"x": "/y"}})


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("engine", "max_model_len", 15),
        ("engine", "gpu_memory_utilization", 1.01),
        ("engine", "gpu_memory_utilization", 0),
        ("engine", "kv_cache_gib", 0),
        ("engine", "tensor_parallel_size", 0),
        ("resources", "num_cpus", -1),
        ("resources", "device", "tpu"),
    ],
)
def test_ranges(section: str, field: str, value: object) -> None:
    tree = {"weights": {"source": "demo"}, section: {field: value}}
    with pytest.raises(ValidationError) as caught:
        ModelSettings.model_validate(tree)
    assert caught.value.errors()[0]["loc"] == (section, field)


SCALED = {"simulator": {}, "scaling": {"max_replicas": 4}}


def test_scaling_bounds_must_fit() -> None:
    with pytest.raises(ValidationError, match=r"min_replicas \(5\) is above max_replicas \(4\)"):
        _settings(a={**SCALED, "scaling": {"min_replicas": 5, "max_replicas": 4}})


def test_a_real_engine_needs_a_capacity_to_scale_by() -> None:
    with pytest.raises(ValidationError, match="galerne lab capacity"):
        _settings(a={"scaling": {"max_replicas": 4}})
    capacity = {"prompt_token_s": 0.0001, "output_token_s": 0.001}
    _settings(a={"scaling": {"max_replicas": 4, "capacity": capacity}})


def test_floors_are_of_classes_that_there_are() -> None:
    model = {**SCALED, "scaling": {"max_replicas": 4, "floors": {"gold": 2}}}
    with pytest.raises(ValidationError, match=r"tenancy\.classes has no 'gold'"):
        _settings(a=model)
    tree = {"models": {"a": model}, "tenancy": {"classes": {"gold": ["ann"]}}}
    assert Settings.model_validate(tree).tenancy.classes == {"gold": ["ann"]}


@pytest.mark.parametrize("floor", [0, 5])
def test_a_floor_is_within_what_the_model_may_have(floor: int) -> None:
    with pytest.raises(ValidationError, match=r"floors.gold must be 1 to max_replicas \(4\)"):
        _settings(a={**SCALED, "scaling": {"max_replicas": 4, "floors": {"gold": floor}}})


def test_a_queue_that_could_not_be_full_is_refused() -> None:
    GatewaySettings(max_concurrent_requests=11, max_queued_requests=10)
    with pytest.raises(ValidationError, match="max_queued_requests"):
        GatewaySettings(max_concurrent_requests=10, max_queued_requests=10)


def test_the_largest_body_finds_memory() -> None:
    """Of which a tenant may hold half."""
    LimitSettings(max_body_bytes=2000, max_held_bytes=4000)
    with pytest.raises(ValidationError, match=r"max_held_bytes \(3999\) must be at least twice"):
        LimitSettings(max_body_bytes=2000, max_held_bytes=3999)


def test_a_tenant_is_of_one_class() -> None:
    tenancy = {"classes": {"gold": ["ann"], "silver": ["ann"]}}
    with pytest.raises(ValidationError, match="classes: 'ann' is listed twice"):
        Settings.model_validate({"models": {"a": SCALED}, "tenancy": tenancy})


def test_a_budget_holds_what_is_promised() -> None:
    model = {
        **SCALED,
        "scaling": {"min_replicas": 3, "max_replicas": 4},
        "engine": {"tensor_parallel_size": 2},
    }
    tree = {"models": {"a": model}, "autoscaler": {"gpu_budget": 5}}
    with pytest.raises(ValidationError, match=r"gpu_budget \(5\) is less than .* take \(6\)"):
        Settings.model_validate(tree)
    model["resources"] = {"device": "cpu"}
    assert Settings.model_validate(tree).models["a"].num_gpus == 0


@pytest.mark.parametrize("url", ["prometheus:9090", "http://ann:secret@prometheus:9090", "ftp://x"])
def test_an_address_of_prometheus_holds_no_password(url: str) -> None:
    """Ray Serve logs what its policies are made of."""
    tree = {"models": {"a": SCALED}, "autoscaler": {"prometheus_url": url}}
    with pytest.raises(ValidationError, match=r"autoscaler\.prometheus_url"):
        Settings.model_validate(tree)
    tree["autoscaler"] = {"prometheus_url": "https://prometheus:9090/tenant/1"}
    Settings.model_validate(tree)


def test_spares_are_within_the_maximum() -> None:
    with pytest.raises(ValidationError, match=r"spares \(5\) is above max_replicas \(4\)"):
        _settings(a={**SCALED, "scaling": {"max_replicas": 4, "spares": 5}})
