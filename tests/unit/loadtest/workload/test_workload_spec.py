"""Workloads as documents: what they may say, and what is said of one that is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from loadtest.workload.spec import Workload, read_workload, to_workload
from serving.errors import ConfigError

EXAMPLES = sorted((Path(__file__).parents[4] / "loadtest" / "workloads").glob("*.yaml"))
CHAT: Mapping[str, Any] = {
    "model": "m",
    "arrivals": "poisson:5",
    "prompt_tokens": 100,
    "output_tokens": "uniform:1:9",
}
REPLAY: Mapping[str, Any] = {"process": "trace", "path": "day.jsonl", "format": "galerne"}


def document(**changes: Any) -> dict[str, Any]:
    """A workload with changes to its only traffic."""
    return {"duration_s": 60, "traffic": {"chat": {**CHAT, **changes}}}


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("constant:10", {"process": "constant", "rate": 10.0}),
        ("poisson:0.5", {"process": "poisson", "rate": 0.5}),
        ("gamma:5:2.5", {"process": "gamma", "rate": 5.0, "cv": 2.5}),
        ("ramp:1:20", {"process": "ramp", "start_rate": 1.0, "end_rate": 20.0}),
        ("step:5x60,50x30.5", {"process": "step", "steps": [[5.0, 60.0], [50.0, 30.5]]}),
    ],
)
def test_arrivals_have_a_short_form(text: str, fields: dict[str, Any]) -> None:
    short, long = (to_workload(document(arrivals=arrivals)) for arrivals in (text, fields))
    assert short == long
    assert short.traffic["chat"].arrivals.model_dump(mode="json") == fields


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_workload_is_the_same_after_it_was_written_down(path: Path) -> None:
    workload = read_workload(path)
    again = to_workload(json.loads(workload.model_dump_json()))
    assert again == workload
    assert list(again.sessions(0.2)) == list(workload.sessions(0.2))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


def test_a_replay_is_the_same_after_it_was_written_down(tmp_path: Path) -> None:
    replay = to_workload({"traffic": {"day": {"model": "m", "arrivals": REPLAY}}}, folder=tmp_path)
    assert to_workload(replay.model_dump(mode="json")) == replay


@pytest.mark.parametrize("write", [yaml.safe_dump, json.dumps])
def test_yaml_and_json_are_read(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "workload"
    path.write_text(write(document()))
    assert read_workload(path) == to_workload(document())


def test_a_trace_lies_beside_the_document(tmp_path: Path) -> None:
    (tmp_path / "day.jsonl").write_text('{"at_s": 0, "prompt_tokens": 3, "output_tokens": 2}')
    path = tmp_path / "workload.yaml"
    path.write_text(yaml.safe_dump({"traffic": {"day": {"model": "m", "arrivals": REPLAY}}}))
    (session,) = read_workload(path).sessions()
    assert session.turns[0].prompt_tokens == 3


def test_reading_a_workload_does_not_read_its_traces() -> None:
    workload = to_workload({"traffic": {"day": {"model": "m", "arrivals": REPLAY}}})
    with pytest.raises(ConfigError, match=r"cannot read day\.jsonl"):
        workload.sessions()


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        ({}, "traffic", "Field required"),
        ({"traffic": {}}, "traffic", "at least 1 item"),
        ({**document(), "sed": 1}, "sed", "there is no such field"),
        ({**document(), "seed": -1}, "seed", "greater than or equal to 0"),
        ({**document(), "duration_s": 0}, "duration_s", "greater than 0"),
        ({**document(), "duration_s": float("inf")}, "duration_s", "finite"),
        (
            {**document(), "duration_s": None},
            "duration_s",
            "poisson arrivals do not end",
        ),
        ({**document(), "duration_s": 1e9}, "duration_s", "more than 100,000,000 sessions of chat"),
        (
            {"traffic": document(arrivals="step:1e6x1e3")["traffic"]},
            "duration_s",
            "more than 100,000,000 sessions",
        ),
        ({"traffic": {"a b": CHAT}}, "traffic.a b", "should match pattern"),
        (document(modell="x"), "traffic.chat.modell", "there is no such field"),
        (document(dialect="grpc"), "traffic.chat.dialect", "'chat', 'completions', 'responses'"),
        (
            document(prompt_tokens=None),
            "traffic.chat.prompt_tokens",
            "a value is required, for example",
        ),
        (document(prompt_tokens=0), "traffic.chat.prompt_tokens", "at least one token"),
        (document(output_tokens="zipf:3"), "traffic.chat.output_tokens", "'zipf:3' is no length"),
        (
            document(shared_prefix_tokens=100),
            "traffic.chat.shared_prefix_tokens",
            "multiple of 512",
        ),
        (document(cancel_ratio=0.5), "traffic.chat.cancel_after_s", "required with cancel_ratio"),
        (document(cancel_ratio=5), "traffic.chat.cancel_ratio", "less than or equal to 1"),
        (document(arrivals="poisson"), "traffic.chat.arrivals", "'poisson' is no arrival process"),
        (document(arrivals="poisson:x"), "traffic.chat.arrivals.rate", "valid number"),
        (document(arrivals="poisson:0"), "traffic.chat.arrivals.rate", "greater than 0"),
        (document(arrivals="gamma:5:0"), "traffic.chat.arrivals.cv", "greater than 0.01"),
        (
            document(arrivals="ramp:0:0"),
            "traffic.chat.arrivals.start_rate",
            "nothing would be sent",
        ),
        (document(arrivals="step:0x9"), "traffic.chat.arrivals.steps", "nothing would be sent"),
        (document(arrivals="step:5"), "traffic.chat.arrivals.steps.0.1", "Field required"),
        (document(arrivals="step:5x0"), "traffic.chat.arrivals.steps.0.1", "greater than 0"),
        (document(arrivals={"process": "mmpp"}), "traffic.chat.arrivals", "expected tags"),
        (document(arrivals={"rate": 5}), "traffic.chat.arrivals", "discriminator 'process'"),
        (document(arrivals=5), "traffic.chat.arrivals", "valid dictionary"),
        (document(arrivals=REPLAY), "traffic.chat.prompt_tokens", "the trace has its own"),
        (
            document(arrivals={**REPLAY, "format": "csv"}),
            "traffic.chat.arrivals.format",
            "'mooncake', 'azure' or 'galerne'",
        ),
        (
            document(arrivals={**REPLAY, "speed": 0}),
            "traffic.chat.arrivals.speed",
            "greater than 0",
        ),
    ],
)
def test_what_is_wrong_is_named(content: dict[str, Any], field: str | None, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        to_workload(content)
    assert caught.value.param == field
    assert message in caught.value.message
    assert caught.value.hint


def test_a_key_in_the_document_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="the name of an environment variable") as caught:
        to_workload(document(key_env="sk-secret"))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("content", ["a: [", "- 1", "a: 1\na: 2", "\x00"])
def test_a_file_that_is_no_document_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "workload.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"workload\.yaml") as caught:
        read_workload(path)
    assert caught.value.param == "--workload"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml' does not exist"):
        read_workload(tmp_path / "nowhere.yaml")


def test_a_workload_is_frozen() -> None:
    workload: Workload = to_workload(document())
    with pytest.raises(ValueError, match="frozen"):
        workload.seed = 3  # type: ignore[misc]


def trace(folder: Path, *times_s: float) -> dict[str, Any]:
    """A traffic that replays requests of these times."""
    lines = [{"at_s": at_s, "prompt_tokens": 3, "output_tokens": 2} for at_s in times_s]
    path = folder / "day.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return {"model": "m", "arrivals": {**REPLAY, "path": path}}


@pytest.mark.parametrize(
    ("arrivals", "rate"),
    [
        ("constant:5", 5.0),
        ("gamma:5:2", 5.0),
        ("ramp:1:20", 10.5),
        ("step:1x60,100x60", 1.0),
        ("step:1x30,100x60", 50.5),
        ("step:4x30,1x10", 3.25),
    ],
)
def test_the_mean_rate_is_what_is_planned_within_the_duration(arrivals: str, rate: float) -> None:
    workload = to_workload({**document(arrivals=arrivals), "duration_s": 60})

    assert workload.mean_rate() == pytest.approx(rate)
    planned = len(list(workload.sessions(10.0))) / workload.planned_s(10.0)
    assert workload.mean_rate(10.0) == pytest.approx(planned, rel=0.1)
    assert workload.mean_rate(workload.scale_to(17.0)) == pytest.approx(17.0)


def test_of_a_trace_the_rate_is_of_the_part_that_is_played(tmp_path: Path) -> None:
    times_s = [*np.linspace(0, 60, 60, endpoint=False), *np.linspace(60, 120, 1200)]
    content = {"traffic": {"day": trace(tmp_path, *times_s)}}
    whole, begun = to_workload(content), to_workload({**content, "duration_s": 60})

    assert whole.mean_rate() == pytest.approx(1260 / 120)
    assert begun.mean_rate() == pytest.approx(1.0)
    for workload in (whole, begun):
        scale = workload.scale_to(15.0)
        planned = len(list(workload.sessions(scale))) / workload.planned_s(scale)
        assert planned == pytest.approx(15.0, rel=0.01)


@pytest.mark.parametrize("duration_s", [None, 60])
def test_a_trace_without_time_has_no_rate(tmp_path: Path, duration_s: float | None) -> None:
    content = {"traffic": {"day": trace(tmp_path, 0, 0, 0)}, "duration_s": duration_s}

    with pytest.raises(ConfigError, match="due at once: there is no rate to scale"):
        to_workload(content).scale_to(5.0)


def test_what_is_due_after_the_duration_only_has_no_rate() -> None:
    with pytest.raises(ConfigError, match="nothing is due within the duration"):
        to_workload(document(arrivals="step:0x60,5x60")).scale_to(5.0)
