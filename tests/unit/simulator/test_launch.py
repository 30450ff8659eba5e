"""The settings a simulated engine starts from."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serving.core.start_record import StartRecord
from serving.core.types import ModelId
from serving.errors import ConfigError
from serving.settings.engine import EngineSettings
from serving.settings.model import ModelSettings
from serving.settings.simulator import SimulatorSettings
from serving.simulator.launch import build_engine, launch_simulator, scheduler_config


def settings(engine: dict[str, Any], **simulator: Any) -> ModelSettings:
    return ModelSettings(engine=EngineSettings(**engine), simulator=SimulatorSettings(**simulator))


def test_defaults_are_those_of_vllm_on_a_gpu() -> None:
    model = settings({})
    config = scheduler_config(model, SimulatorSettings())
    assert (config.max_model_len, config.max_num_seqs) == (8192, 256)
    assert config.max_num_batched_tokens == 2048
    assert (config.kv_cache.block_size, config.kv_cache.num_blocks) == (16, 4096)


def test_under_a_window_the_chunk_is_the_planners_for_a_gpu() -> None:
    model = settings({"max_model_len": 32768}, sliding_window=4096)
    assert model.simulator is not None
    assert scheduler_config(model, model.simulator).max_num_batched_tokens == 1024
    said = settings({"max_model_len": 32768, "max_num_batched_tokens": 4096}, sliding_window=4096)
    assert said.simulator is not None
    assert scheduler_config(said, said.simulator).max_num_batched_tokens == 4096


@pytest.mark.parametrize(
    ("engine", "simulator", "num_needed"),
    [
        ({"max_model_len": 1024}, {}, 65),
        ({"max_model_len": 1024, "block_size": 32}, {}, 33),
        ({"max_model_len": 1024, "max_num_batched_tokens": 64}, {"sliding_window": 65}, 10),
        ({"max_model_len": 128, "max_num_batched_tokens": 64}, {"sliding_window": 900}, 10),
    ],
)
def test_the_longest_sequence_must_fit(
    engine: dict[str, Any], simulator: dict[str, Any], num_needed: int
) -> None:
    fitting = settings(engine, kv_blocks=num_needed, **simulator)
    assert fitting.simulator is not None
    scheduler_config(fitting, fitting.simulator)
    small = settings(engine, kv_blocks=num_needed - 1, **simulator)
    assert small.simulator is not None
    with pytest.raises(ConfigError) as refused:
        scheduler_config(small, small.simulator)
    assert refused.value.code == "kv_cache_too_small"


async def test_the_description_is_what_vllm_would_tell() -> None:
    model = settings({"max_model_len": 512}, kv_blocks=99, sliding_window=64)
    engine = build_engine(
        ModelId("sim"),
        model,
        None,
        registry=CollectorRegistry(),
        clock=asyncio.get_running_loop().time,
    )
    description = engine.description
    assert description.kv_blocks_total == 99
    assert description.sliding_window == 64
    assert description.max_model_len == 512
    assert description.tasks == ("generate",)


async def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Any) -> None:
    start = StartRecord(clock=float, wall_clock=float)
    with pytest.raises(ConfigError) as refused:
        await launch_simulator(
            ModelId("sim"), settings({}, start_s=0), lambda: tmp_path, b"s", start
        )
    assert refused.value.code == "tokenizer_unusable"
    assert str(tmp_path) not in refused.value.message
