"""What a local cluster is started with, and the checks before it is."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.adapters.local_ports import LocalPorts
from serving.adapters.ray_cluster import cluster_environment, make_run_dir
from serving.adapters.state_paths import StatePaths
from serving.errors import ConfigError
from serving.settings.platform import Settings

HOST = "127.0.0.1"
MAX_HAPROXY_SOCKET_PATH = 97
NODE_ID_CHARS = 56
HF_MODEL = {"weights": {"source": "org/name", "revision": "0" * 40}}
DEMO = {"weights": {"source": "demo"}}
S3_MODEL = {"weights": {"source": "s3://models/x", "manifest_sha256": "0" * 64}}
PORTS = LocalPorts(haproxy_stats=4001, haproxy_metrics=4002, fallback_proxy=4003)


def environment(paths: StatePaths, **tree: Any) -> dict[str, str]:
    settings = Settings.model_validate({"models": {"demo": DEMO}, **tree})
    return cluster_environment(
        settings, paths, run_dir=Path("/tmp/run"), edge="package.module.edge", ports=PORTS
    )


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths.of(tmp_path / "state", tmp_path / "cache")


def test_every_value_is_text(paths: StatePaths) -> None:
    variables = environment(paths)
    assert all(isinstance(value, str) and "\0" not in value for value in variables.values())


def test_ray_takes_no_orders_from_strangers(paths: StatePaths) -> None:
    variables = environment(paths)

    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["RAY_AUTH_TOKEN_PATH"] == str(paths.ray_token_file)
    assert variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_memory_that_runs_out_is_the_kernels_to_settle(paths: StatePaths) -> None:
    """Ray's monitor would end gateways and Serve's controller along with the engine."""
    variables = environment(paths)

    assert variables["RAY_memory_monitor_refresh_ms"] == "0"
    assert variables["RAY_worker_oom_score_adjustment"] == "0"


def test_nothing_phones_home(paths: StatePaths) -> None:
    variables = environment(paths)

    assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
    assert variables["VLLM_NO_USAGE_STATS"] == "1"
    assert variables["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_haproxy_is_configured_as_asked(paths: StatePaths) -> None:
    variables = environment(
        paths,
        gateway={"limits": {"header_timeout_s": 7}},
        models={"a": DEMO | {"drain_timeout_s": 30}, "b": DEMO | {"drain_timeout_s": 90.5}},
    )

    assert variables["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert variables["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "package.module.edge"
    assert variables["GALERNE_HEADER_TIMEOUT_S"] == "7"
    assert variables["RAY_SERVE_HAPROXY_STATS_PORT"] == "4001"
    assert variables["RAY_SERVE_HAPROXY_METRICS_PORT"] == "4002"
    assert int(variables["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) >= 90
    assert Path(variables["RAY_SERVE_HAPROXY_BINARY_PATH"]).is_file()
    assert "4003" in variables.values()


def test_haproxys_files_are_in_the_run_folder(paths: StatePaths) -> None:
    variables = environment(paths)
    for name in ("CONFIG_FILE_LOC", "SOCKET_PATH", "SERVER_STATE_FILE", "METRICS_SOCKET_PATH"):
        assert Path(variables[f"RAY_SERVE_HAPROXY_{name}"]).parent == Path("/tmp/run")


def test_niceness_is_a_setting(paths: StatePaths) -> None:
    assert environment(paths, cluster={"worker_niceness": 3})["RAY_worker_niceness"] == "3"


@pytest.mark.parametrize(
    ("models", "is_offline"),
    [
        ({"a": DEMO}, True),
        ({"a": {"weights": {"source": "/models/x"}}, "b": DEMO}, True),
        ({"a": {"weights": {"source": "~/x"}}, "b": {"weights": {"source": "./x"}}}, True),
        ({"a": S3_MODEL}, True),
        ({"a": HF_MODEL}, False),
        ({"a": DEMO, "b": HF_MODEL}, False),
    ],
)
def test_the_hub_is_asked_only_if_a_model_is_there(
    paths: StatePaths, models: dict[str, Any], is_offline: bool
) -> None:
    assert ("HF_HUB_OFFLINE" in environment(paths, models=models)) is is_offline


# --- the run folder ----------------------------------------------------------------------------


@pytest.fixture
def in_tmp(monkeypatch: pytest.MonkeyPatch, paths: StatePaths) -> Iterator[StatePaths]:
    """Short paths, as on a normal machine; pytest's own are long."""
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    yield paths
    path = expected_path(paths)
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        path.rmdir()


def expected_path(paths: StatePaths) -> Path:
    """Where the folder of these paths will be."""
    digest = hashlib.sha256(str(paths.state_dir).encode()).hexdigest()[:8]
    return Path("/tmp") / f"galerne-{digest}"


def test_the_run_folder_is_private_and_short(in_tmp: StatePaths) -> None:
    folder = make_run_dir(in_tmp)

    assert folder.stat().st_mode & 0o777 == 0o700
    longest = folder / ("n" * NODE_ID_CHARS) / "admin.sock"
    assert len(str(longest)) <= MAX_HAPROXY_SOCKET_PATH


def test_one_state_folder_has_one_run_folder(in_tmp: StatePaths, tmp_path: Path) -> None:
    assert make_run_dir(in_tmp) == make_run_dir(in_tmp)
    assert expected_path(StatePaths.of(tmp_path / "other", tmp_path)) != make_run_dir(in_tmp)


def test_a_long_temporary_folder_is_refused(
    paths: StatePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        make_run_dir(paths)
    assert caught.value.code == "run_dir_too_long"
    assert "TMPDIR" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def refusal(paths: StatePaths) -> str:
    with pytest.raises(ConfigError) as caught:
        make_run_dir(paths)
    return caught.value.code


def test_somebody_elses_folder_is_refused(in_tmp: StatePaths) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make a folder that belongs to somebody else")
    path = expected_path(in_tmp)
    path.mkdir()
    os.chown(path, 65534, 65534)
    assert refusal(in_tmp) == "run_dir_foreign"


def test_a_link_to_an_own_folder_is_refused(in_tmp: StatePaths, tmp_path: Path) -> None:
    """In /tmp anybody can place one, and so choose where our sockets go."""
    expected_path(in_tmp).symlink_to(tmp_path)
    assert refusal(in_tmp) == "run_dir_foreign"


def test_a_folder_open_to_others_is_closed(in_tmp: StatePaths) -> None:
    expected_path(in_tmp).mkdir(mode=0o777)
    expected_path(in_tmp).chmod(0o777)
    assert make_run_dir(in_tmp).stat().st_mode & 0o077 == 0


def test_a_file_in_the_way_is_told(in_tmp: StatePaths) -> None:
    expected_path(in_tmp).touch()
    refusal(in_tmp)
