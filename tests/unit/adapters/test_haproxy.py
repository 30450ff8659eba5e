"""What HAProxy is started with, as far as neither HAProxy nor Ray is needed to know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.adapters.haproxy import harden_file
from serving.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GALERNE_INTERNAL_HOST", "a b"),
        ("GALERNE_INTERNAL_HOST", "::1\nglobal"),
        ("GALERNE_INTERNAL_HOST", "*"),
        ("GALERNE_HEADER_TIMEOUT_S", "0"),
        ("GALERNE_HEADER_TIMEOUT_S", "1.5"),
        ("GALERNE_HEADER_TIMEOUT_S", "301"),
        ("GALERNE_HEADER_TIMEOUT_S", "²"),
    ],
)
def test_bad_environment_is_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text("global\n")
    with pytest.raises(ConfigError) as caught:
        harden_file(config, {name: value})
    assert caught.value.param == name
    assert repr(value) in caught.value.message
    assert config.read_text() == "global\n"


def test_starting_imports_neither_ray_nor_pydantic() -> None:
    code = "import sys, serving.adapters.haproxy; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"ray", "pydantic", "yaml", "asyncio"} & set(done.stdout.split())
