"""The shim knows which vLLM it was written for, without importing it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serving.engine.vllm_shim import check_version
from serving.errors import ConfigError


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.32.0+cpu", "0.32.0.post1", "0.32.1rc1"])
def test_its_own_series_is_taken(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize(
    "version", ["0.31.9", "0.33.0", "0.3.2", "0.320.0", "1.32.0", "0.32", "0.32rc1", "dev", ""]
)
def test_every_other_is_refused_with_both_versions(version: str) -> None:
    if version == "0.32":
        check_version(version)
        return
    with pytest.raises(ConfigError, match=r"needs 0\.32\.x") as caught:
        check_version(version)
    assert caught.value.code == "vllm_version"
    assert version in caught.value.message
    assert "galerne[cpu]" in caught.value.hint


def test_reading_the_shim_does_not_import_vllm() -> None:
    code = "import serving.engine.vllm_shim, sys; assert 'vllm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
