"""Settings as vLLM options, GPU forms included, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.engine.arguments import OWNED_OPTIONS, engine_arguments, engine_environment
from serving.errors import ConfigError
from serving.planner.placement import plan_placement
from serving.settings.engine import ResourceSettings
from serving.settings.model import ModelSettings

WEIGHTS = Path("/models/demo")
EVENTS = "ipc:///run/events"
BARE_FLAGS = {
    "--enable-prefix-caching", "--enable-chunked-prefill", "--enable-prompt-tokens-details",
    "--no-disable-hybrid-kv-cache-manager", "--disable-uvicorn-access-log",
}  # fmt: skip


def arguments(**model: Any) -> list[str]:
    settings = ModelSettings.model_validate({"weights": {"source": "demo"}, **model})
    placement = plan_placement(settings.engine, resources=settings.resources)
    return engine_arguments(
        "demo", settings, weights=WEIGHTS, placement=placement, kv_events=EVENTS
    )


def option(words: list[str], name: str) -> str:
    assert words.count(name) == 1
    return words[words.index(name) + 1]


def test_the_demo_on_cpu() -> None:
    words = arguments(resources={"device": "cpu"}, engine={"kv_cache_gib": 0.5})

    assert option(words, "--model") == "/models/demo"
    assert option(words, "--served-model-name") == "demo"
    assert option(words, "--kv-cache-memory-bytes") == str(2**29)
    assert option(words, "--distributed-executor-backend") == "uni"
    assert "--gpu-memory-utilization" not in words


@pytest.mark.parametrize(
    ("num_cpus", "num_cores", "threads"), [(0, 1, 1), (0, 2, 1), (0.5, 16, 15), (6, 16, 6)]
)
def test_compute_threads_on_cpu(num_cpus: float, num_cores: int, threads: int) -> None:
    resources = ResourceSettings(device="cpu", num_cpus=num_cpus)

    environment = engine_environment(resources, num_cores=num_cores)

    assert environment["OMP_NUM_THREADS"] == str(threads)


def test_what_the_engine_must_not_lose_is_asked_for_by_name() -> None:
    assert set(arguments()) >= BARE_FLAGS


def test_nothing_is_said_of_what_is_left_to_vllm() -> None:
    words = arguments()

    assert "None" not in words
    assert "False" not in words
    assert not set(words) & {
        "--max-model-len", "--block-size", "--kv-cache-memory-bytes", "--enforce-eager",
        "--enable-lora", "--tool-call-parser", "--enable-auto-tool-choice", "--reasoning-parser",
        "--max-num-batched-tokens",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tensor", "pipeline", "executor"), [(1, 1, "uni"), (4, 1, "mp"), (4, 2, "ray"), (1, 2, "ray")]
)
def test_parallelism_on_gpus(tensor: int, pipeline: int, executor: str) -> None:
    words = arguments(
        engine={
            "tensor_parallel_size": tensor,
            "pipeline_parallel_size": pipeline,
            "gpu_memory_utilization": 0.85,
        }
    )

    assert option(words, "--tensor-parallel-size") == str(tensor)
    assert option(words, "--pipeline-parallel-size") == str(pipeline)
    assert option(words, "--distributed-executor-backend") == executor
    assert option(words, "--gpu-memory-utilization") == "0.85"


def test_mistrals_own_formats_and_parsers() -> None:
    words = arguments(
        engine={
            "tokenizer_mode": "mistral",
            "config_format": "mistral",
            "load_format": "mistral",
            "tool_call_parser": "mistral",
            "reasoning_parser": "mistral",
        }
    )

    for name in ("tokenizer-mode", "config-format", "load-format", "tool-call-parser"):
        assert option(words, f"--{name}") == "mistral"
    assert "--enable-auto-tool-choice" in words


def test_adapters_are_loaded_under_their_names() -> None:
    words = arguments(adapters={"sql": "/lora/sql", "chat": "~/lora/chat"})

    start = words.index("--lora-modules")
    assert "--enable-lora" in words
    assert words[start + 1 : start + 3] == ["sql=/lora/sql", f"chat={Path.home()}/lora/chat"]


def test_further_options_are_passed_on() -> None:
    words = arguments(
        engine={
            "extra_args": {
                "seed": 7,
                "swap_space": 0.5,
                "enable-sleep-mode": True,
                "async-scheduling": False,
                "allowed-origins": ["a", "b"],
            }
        }
    )

    assert option(words, "--seed") == "7"
    assert option(words, "--swap-space") == "0.5"
    assert "--enable-sleep-mode" in words
    assert words[words.index("--allowed-origins") :][:3] == ["--allowed-origins", "a", "b"]


def test_a_further_option_wins_over_a_setting() -> None:
    words = arguments(engine={"max_num_seqs": 8, "extra_args": {"max_num_seqs": 16}})
    assert option(words, "--max-num-seqs") == "16"


@pytest.mark.parametrize("name", sorted(OWNED_OPTIONS))
@pytest.mark.parametrize("spelling", [str, lambda name: name.replace("-", "_")])
def test_owned_options_are_refused(name: str, spelling: Any) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        arguments(engine={"extra_args": {spelling(name): "x"}})
    assert caught.value.code == "engine_option_owned"
    assert caught.value.param == f"models.demo.engine.extra_args.{spelling(name)}"
    assert caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "api-key=abc",  # one word with its value
        "trust-remote-cod",  # argparse completes it
        "config",  # a file of further options
    ],
)
def test_owned_options_cannot_be_smuggled(name: str) -> None:
    with pytest.raises(ConfigError):
        arguments(engine={"extra_args": {name: True}})


def test_a_value_is_no_option() -> None:
    """vLLM would take the second word for an option when the first is a bare flag."""
    with pytest.raises(ConfigError):
        arguments(engine={"extra_args": {"enable-log-deltas": "--trust-remote-code"}})
