"""Hardening of the configuration that the installed Ray Serve really renders, and the script that
Ray starts."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from haproxy_template import render

from serving.adapters.haproxy import (
    Hardening,
    find_binary,
    harden,
    harden_file,
)
from serving.errors import ConfigError


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What Ray renders once it knows the application."""
    return render(tmp_path_factory.mktemp("template")).read_text()


@pytest.fixture
def rendered(tmp_path: Path, template: str) -> Path:
    path = tmp_path / "haproxy.cfg"
    path.write_text(template)
    return path


def _hardening(folder: Path) -> Hardening:
    return Hardening("127.0.0.1", 7, folder)


def test_every_exposure_of_the_template_is_closed(rendered: Path) -> None:
    raw = rendered.read_text()
    hardened = harden(raw, _hardening(rendered.parent))
    for exposed in ("mode 666", "bind *:8404", "bind :9101", "Ping http", '{\\"/\\":'):
        assert exposed in raw
        assert exposed not in hardened
    assert "mode 600 level admin" in hardened
    assert "bind 127.0.0.1:8404" in hardened
    assert "bind 127.0.0.1:9101" in hardened
    assert hardened.count("timeout http-request 7s") == 1


def test_only_the_expected_lines_change(rendered: Path) -> None:
    raw = rendered.read_text().splitlines()
    hardened = harden(rendered.read_text(), _hardening(rendered.parent)).splitlines()
    removed = [line for line in raw if line not in hardened]
    # socket, two binds, two splicing options, routes, unmatched path, three error files, and the
    # fallback with its comment
    assert len(removed) == 12
    assert [line for line in hardened if "healthcheck" in line] == [
        line for line in raw if "healthcheck" in line
    ]


def test_serves_own_proxy_stands_in_for_no_gateway(rendered: Path) -> None:
    raw = rendered.read_text()
    hardened = harden(raw, _hardening(rendered.parent))
    assert raw.count("SERVE_PROXY_ACTOR-fallback") == 1
    assert "SERVE_PROXY_ACTOR-fallback" not in hardened
    assert hardened.count("server gateway-1 ") == 1


@pytest.mark.parametrize(
    "options",
    [
        {"application_path": "/"},
        {"application_path": None},
        {"other_gateways": [("10.0.0.2", 9), ("10.0.0.3", 9)], "observe_mark_down_enabled": False},
        {"other_gateways": [("10.0.0.2", 9)], "observe_mark_down_enabled": True},
    ],
)
def test_hardening_twice_changes_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    raw = render(tmp_path, **options).read_text()
    once = harden(raw, _hardening(tmp_path))
    assert harden(once, _hardening(tmp_path)) == once


def test_unmatched_paths_are_retryable_until_the_application_is_known(tmp_path: Path) -> None:
    empty = harden(render(tmp_path, application_path=None).read_text(), _hardening(tmp_path))
    served = harden(render(tmp_path).read_text(), _hardening(tmp_path))
    assert empty.rpartition("backend default_backend")[2].split()[3] == "503"
    assert served.rpartition("backend default_backend")[2].split()[3] == "404"


def servers(config_text: str) -> list[str]:
    return [line.strip() for line in config_text.splitlines() if line.startswith("    server ")]


def test_gateways_of_other_nodes_are_taken_when_this_one_has_none(tmp_path: Path) -> None:
    others = [("10.0.0.2", 30000), ("10.0.0.3", 30001)]
    options: dict[str, Any] = {"observe_mark_down_enabled": False, "gateway_port": 30000}
    path = render(tmp_path, other_gateways=others, **options)
    harden_file(path, {})
    hardened = path.read_text()
    assert servers(hardened) == [
        "server gateway-1 127.0.0.1:30000 check observe layer4 error-limit 1 on-error mark-down",
        "server gateway-2 10.0.0.2:30000 backup check",
        "server gateway-3 10.0.0.3:30001 backup check",
    ]
    assert hardened.count("option allbackups") == 1
    check = subprocess.run(
        [find_binary(), "-c", "-f", str(path)], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.9"])
def test_gateways_of_one_place_are_equals(rendered: Path, host: str) -> None:
    """All of them on this node, or all on others."""
    raw = rendered.read_text()
    server = next(line for line in raw.splitlines() if "server gateway-1 " in line)
    equals = "\n".join(
        server.replace("gateway-1", f"gateway-{number}").replace("127.0.0.1", host)
        for number in (1, 2)
    )
    hardened = harden(raw.replace(server, equals), _hardening(rendered.parent))
    assert servers(hardened) == [line.strip() for line in equals.splitlines()]
    assert "allbackups" not in hardened


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3"])
def test_haproxy_accepts_the_result(rendered: Path, host: str) -> None:
    harden_file(rendered, {"GALERNE_INTERNAL_HOST": host})
    check = subprocess.run(
        [find_binary(), "-c", "-f", str(rendered)], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("mode 666 level admin", "level admin"),
        ("    bind :9101", "    bind fd@3"),
        ("  bind *:8404", "  bind *:8404\n  bind *:8405"),
        ("defaults\n", "defaults a\n"),
        ("    log global\n    option httplog", "    timeout http-request 90s\n    option httplog"),
        ("    errorfile 502", "    balance roundrobin\n    error-file 502"),
        ("if routes\n", "if the_routes\n"),
        ("status 404", "code 404"),
        ("listen stats\n", "listen extra\n  bind *:1\nlisten stats\n"),
    ],
)
def test_a_changed_template_is_refused(rendered: Path, line: str, changed: str) -> None:
    raw = rendered.read_text()
    assert line in raw
    if line == "    errorfile 502":
        raw = re.sub(r"    errorfile 50[34].*\n", "", raw)
    with pytest.raises(ConfigError) as caught:
        harden(raw.replace(line, changed), _hardening(rendered.parent))
    assert caught.value.code == "haproxy_template_changed"


def _run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The variable names our own script, as it does under Ray: it must not start itself again.
    script = str(Path(sys.executable).with_name("galerne-haproxy"))
    environ = {**os.environ, "RAY_SERVE_HAPROXY_BINARY_PATH": script}
    return subprocess.run(
        [script, *arguments], env=environ, capture_output=True, text=True, check=False, timeout=20
    )


def test_the_script_hardens_then_becomes_haproxy(rendered: Path) -> None:
    done = _run_script("-c", "-f", str(rendered))
    assert done.returncode == 0, done.stderr
    assert "Configuration file is valid" in done.stdout + done.stderr
    assert "mode 600" in rendered.read_text()
    assert stat.S_ISREG((rendered.parent / "galerne-503.http").stat().st_mode)


def test_the_script_refuses_a_strange_configuration(tmp_path: Path) -> None:
    strange = tmp_path / "haproxy.cfg"
    strange.write_text("global\n    maxconn 10\n")
    done = _run_script("-c", "-f", str(strange))
    assert done.returncode == 2
    assert "refusing to start" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [(), ("-f",), ("-f", "a", "-f", "b")])
def test_the_script_wants_exactly_one_file(arguments: tuple[str, ...]) -> None:
    done = _run_script(*arguments)
    assert done.returncode == 2
    assert "exactly one" in done.stderr
