"""The workload of a command line, and errors that name its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadtest.workload.options import WorkloadOptions, from_options
from serving.errors import ConfigError

SHAPE: dict[str, Any] = {"prompt_tokens": "100", "output_tokens": "9"}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(f'{{"at_s": {i}, "prompt_tokens": 3, "output_tokens": 2}}\n' for i in range(9))
    )
    return path


def test_a_trace_is_replayed_as_fast_and_as_far_as_asked(trace: Path) -> None:
    options = WorkloadOptions(model="m", trace=trace, format="galerne", speed=2.0, limit=4)
    sessions = list(from_options(options).sessions())
    assert [session.at_s for session in sessions] == [0.0, 0.5, 1.0, 1.5]


def test_the_traffic_is_what_the_options_say() -> None:
    options = WorkloadOptions(
        model="m", arrivals="constant:1", duration_s=2, dialect="messages", stream=False, **SHAPE
    )
    (traffic,) = from_options(options).traffic.values()
    assert (traffic.model, traffic.dialect, traffic.stream) == ("m", "messages", False)


@pytest.mark.parametrize(
    ("given", "option", "message"),
    [
        ({}, "--arrivals", "either arrivals or a trace"),
        ({"arrivals": "poisson:5", "trace": Path("x")}, "--arrivals", "either arrivals or a trace"),
        ({"arrivals": "poisson:5", **SHAPE}, "--duration", "a value is required, poisson"),
        ({"arrivals": "poisson:-5", "duration_s": 5, **SHAPE}, "--arrivals", "greater than 0"),
        ({"arrivals": "poisson:5", "duration_s": 5}, "--prompt-tokens", "a value is required, for"),
        (
            {"arrivals": "poisson:5", "duration_s": 5, "prompt_tokens": "x", "output_tokens": "1"},
            "--prompt-tokens",
            "'x' is no number",
        ),
        ({"trace": Path("x"), "format": "csv"}, "--format", "'mooncake', 'azure' or 'galerne'"),
        ({"trace": Path("x"), "speed": -1.0}, "--speed", "greater than 0"),
        ({"trace": Path("x"), "limit": 0}, "--limit", "greater than or equal to 1"),
        ({"trace": Path("x"), "prompt_tokens": "5"}, "--prompt-tokens", "the trace has its own"),
        ({"trace": Path("x"), "seed": -1}, "--seed", "greater than or equal to 0"),
        ({"trace": Path("x"), "model": ""}, "--model", "at least 1 character"),
    ],
)
def test_errors_name_the_option(given: dict[str, Any], option: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_options(WorkloadOptions(**{"model": "m", **given}))
    assert caught.value.param == option
    assert message in caught.value.message
    assert "traffic.load" not in caught.value.message
