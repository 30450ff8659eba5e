"""vLLM's real parser takes every option that Galerne gives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.engine.arguments import OWNED_OPTIONS, engine_arguments
from serving.engine.option_check import refusals
from serving.errors import ConfigError
from serving.planner.placement import plan_placement
from serving.settings.model import ModelSettings

FULL: dict[str, Any] = {
    "max_model_len": 4096, "max_num_batched_tokens": 512, "block_size": 16, "kv_cache_gib": 1.5,
    "dtype": "bfloat16", "enforce_eager": True, "tokenizer_mode": "mistral",
    "config_format": "mistral", "load_format": "mistral", "tool_call_parser": "mistral",
    "reasoning_parser": "mistral", "extra_args": {"seed": 1},
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "cpu": {"resources": {"device": "cpu"}},
    "one-gpu": {"engine": FULL},
    "tensor": {"engine": {**FULL, "tensor_parallel_size": 4}},
    "pipeline": {"engine": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}},
    "lora": {"adapters": {"sql": "/lora/sql", "chat": "/lora/chat"}},
}
# vLLM warns on import and changes process-wide state, so it is asked in a process of its own.
SCRIPT = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser(exit_on_error=False))
known = {name for action in parser._actions for name in action.option_strings}
parsed = {}
for form, words in json.loads(sys.argv[1]).items():
    named = [word for word in words if word.startswith("--")]
    unknown = [word for word in named if word not in known]
    args = parser.parse_args(words)
    validate_parsed_serve_args(args)
    parsed[form] = {
        "unknown": unknown,
        "model": args.model,
        "served_model_name": args.served_model_name,
        "tensor_parallel_size": args.tensor_parallel_size,
        "pipeline_parallel_size": args.pipeline_parallel_size,
        "executor": args.distributed_executor_backend,
        "prefix_caching": args.enable_prefix_caching,
        "chunked_prefill": args.enable_chunked_prefill,
        "hybrid_off": args.disable_hybrid_kv_cache_manager,
        "kv_bytes": args.kv_cache_memory_bytes,
        "lora": [f"{m.name}={m.path}" for m in args.lora_modules or []],
        "logs_prompts": args.enable_log_requests,
        "trusts_code": args.trust_remote_code,
    }
owned_unknown = [name for name in json.loads(sys.argv[2]) if f"--{name}" not in known]
print("RESULT" + json.dumps({"parsed": parsed, "owned_unknown": owned_unknown}))
"""


def words_of(form: dict[str, Any]) -> list[str]:
    model = ModelSettings.model_validate({"weights": {"source": "demo"}, **form})
    placement = plan_placement(model.engine, resources=model.resources)
    return engine_arguments(
        "demo",
        model,
        weights=Path("/models/demo"),
        placement=placement,
        kv_events="ipc:///run/events",
    )


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    import json

    forms = json.dumps({name: words_of(form) for name, form in FORMS.items()})
    owned = json.dumps(sorted(OWNED_OPTIONS))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, forms, owned], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT")[2])
    return answer


@pytest.mark.parametrize("form", FORMS)
def test_every_option_exists_and_is_understood(result: dict[str, Any], form: str) -> None:
    parsed = result["parsed"][form]

    assert parsed["unknown"] == []
    assert parsed["model"] == "/models/demo"
    assert parsed["served_model_name"] in ("demo", ["demo"])
    assert parsed["prefix_caching"] is True
    assert parsed["chunked_prefill"] is True
    assert parsed["hybrid_off"] is False
    assert parsed["logs_prompts"] is False
    assert parsed["trusts_code"] is False


def test_gpu_forms_reach_the_engine(result: dict[str, Any]) -> None:
    forms = result["parsed"]

    assert [forms[name]["executor"] for name in FORMS] == ["uni", "uni", "mp", "ray", "uni"]
    assert forms["tensor"]["tensor_parallel_size"] == 4
    assert forms["pipeline"]["pipeline_parallel_size"] == 2
    assert forms["one-gpu"]["kv_bytes"] == 3 * 2**29
    assert forms["lora"]["lora"] == ["sql=/lora/sql", "chat=/lora/chat"]


def test_every_owned_option_is_one_of_vllms(result: dict[str, Any]) -> None:
    assert result["owned_unknown"] == []


def with_extra(extra: dict[str, Any]) -> ModelSettings:
    return ModelSettings.model_validate(
        {"weights": {"source": "demo"}, "engine": {"extra_args": extra}}
    )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"foo_bar": 1}, "unrecognized arguments: --foo-bar"),
    "wrong": ({"seed": "x"}, "argument --seed: invalid int value: 'x'"),
}
"""Options, and what vLLM says of them."""


@pytest.fixture(scope="module")
def refused() -> dict[str, ConfigError]:
    """By the model; one that nothing is wrong with is asked about, too."""
    bad = {name: with_extra(extra) for name, (extra, _) in REFUSED.items()}
    errors = refusals({"good": with_extra({"seed": 1}), **bad})
    return {str(error.param).split(".")[1]: error for error in errors}


def test_only_options_that_vllm_refuses_are_told(refused: dict[str, ConfigError]) -> None:
    assert list(refused) == list(REFUSED)


@pytest.mark.parametrize("model", REFUSED)
def test_the_option_that_vllm_refuses_is_named_before_anything_starts(
    refused: dict[str, ConfigError], model: str
) -> None:
    extra, said = REFUSED[model]
    error = refused[model]

    assert said in error.message
    assert "usage:" not in error.message
    assert error.code == "engine_options"
    assert error.param == f"models.{model}.engine.extra_args.{next(iter(extra))}"
