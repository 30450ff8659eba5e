"""The demo model, really built once from its package, then used and tampered with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.adapters import demo_model, manifest, weights
from serving.adapters.state_paths import StatePaths
from serving.errors import ConfigError
from serving.settings.weights import WeightSettings

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StatePaths]:
    """A cache that two simultaneous callers filled; a killed build had left its folder there."""
    root = tmp_path_factory.mktemp("demo")
    paths = StatePaths.of(root / "state", root / "cache")
    (paths.model_dir / ".demo-killed").mkdir(parents=True)
    script = (
        "from pathlib import Path\n"
        "from serving.adapters.demo_model import prepare_demo\n"
        "from serving.adapters.state_paths import StatePaths\n"
        f"paths = StatePaths.of(Path({str(paths.state_dir)!r}), Path({str(paths.cache_dir)!r}))\n"
        "prepare_demo(paths, lambda step, *_: print(step, flush=True))\n"
    )
    command = [sys.executable, "-c", script]
    callers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [caller.communicate()[0] for caller in callers]
    assert [caller.returncode for caller in callers] == [0, 0]
    assert sum("converting" in text for text in printed) == 1
    yield paths
    shutil.rmtree(root)


@pytest.fixture
def copy(built: StatePaths, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(weights.demo_folder(built), tmp_path / "copy"))


def test_nothing_but_the_model_is_left_behind(built: StatePaths) -> None:
    left = {path.name for path in built.model_dir.iterdir()}
    assert left == {".demo.lock", weights.demo_folder(built).name}


def test_it_is_a_sliding_window_mistral_with_a_chat_template(built: StatePaths) -> None:
    folder = weights.resolve_weights(WeightSettings(source="demo"), built)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["MistralForCausalLM"]
    assert config["model_type"] == "mistral"
    assert config["sliding_window"] == 512
    assert "<|im_start|>" in (folder / "chat_template.jinja").read_text()


def test_transformers_accepts_the_configuration(built: StatePaths) -> None:
    script = (
        "import sys\n"
        "from transformers import AutoConfig, AutoTokenizer\n"
        "folder = sys.argv[1]\n"
        "assert type(AutoConfig.from_pretrained(folder)).__name__ == 'MistralConfig'\n"
        "chat = [{'role': 'user', 'content': 'Bonjour'}]\n"
        "print(AutoTokenizer.from_pretrained(folder).apply_chat_template(chat, tokenize=False))\n"
    )
    command = [sys.executable, "-c", script, str(weights.demo_folder(built))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "<|im_start|>user\nBonjour<|im_end|>" in result.stdout


def test_its_manifest_holds(built: StatePaths) -> None:
    folder = weights.demo_folder(built)
    entries = manifest.verify_manifest(folder, folder / manifest.MANIFEST_NAME)
    listed = {entry.name: entry.sha256 for entry in entries}
    assert listed[demo_model.WEIGHTS_NAME] == demo_model.WEIGHTS_SHA256
    assert set(listed) == {path.name for path in folder.iterdir()} - {manifest.MANIFEST_NAME}


def test_preparing_again_touches_nothing(built: StatePaths) -> None:
    folder = weights.demo_folder(built)
    before = folder.stat().st_mtime_ns
    steps: list[str] = []
    assert demo_model.prepare_demo(built, lambda step, *_: steps.append(step)) == folder
    assert steps == []
    assert folder.stat().st_mtime_ns == before


def test_one_flipped_bit_is_found(copy: Path) -> None:
    with (copy / demo_model.WEIGHTS_NAME).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    with pytest.raises(ConfigError) as caught:
        manifest.verify_manifest(copy, copy / manifest.MANIFEST_NAME)
    assert caught.value.code == "weights_mismatch"


def test_a_slipped_in_weight_file_is_found(copy: Path) -> None:
    (copy / "adapter.bin").write_bytes(b"pickle")
    with pytest.raises(ConfigError) as caught:
        manifest.verify_manifest(copy, copy / manifest.MANIFEST_NAME)
    assert caught.value.code == "weights_unlisted"


def test_no_package_index_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = StatePaths.of(tmp_path / "state", tmp_path / "cache")
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_FIND_LINKS": "",
        "PIP_NO_INDEX": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        demo_model.prepare_demo(paths)
    assert caught.value.code == "demo_model_download_failed"
    assert "PIP_FIND_LINKS" in caught.value.hint
    assert [path.name for path in paths.model_dir.iterdir()] == [".demo.lock"]
