"""Sessions are the same each time, each at its time, and share prompts only where they should."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.workload.request import BLOCK_TOKENS, Session
from loadtest.workload.spec import Workload, to_workload

CHAT = {
    "model": "m",
    "arrivals": "gamma:5:2",
    "prompt_tokens": "lognormal:600:1",
    "output_tokens": "uniform:1:99",
    "turns": "uniform:1:4",
    "think_s": "lognormal:10:1",
    "cancel_ratio": 0.3,
    "cancel_after_s": "uniform:1:2",
}
JOBS = {"model": "n", "arrivals": "ramp:0:9", "prompt_tokens": 700, "output_tokens": 5}


def workload(*, seed: int = 0, duration_s: float = 12, **traffic: Any) -> Workload:
    return to_workload({"seed": seed, "duration_s": duration_s, "traffic": traffic})


def planned(sessions: Iterable[Session]) -> list[tuple[Any, ...]]:
    """All but when and at which place."""
    return [(s.traffic, s.turns, s.cancel_after_s) for s in sessions]


def blocks_of(sessions: Iterable[Session]) -> list[int]:
    return [block for s in sessions for turn in s.turns for block in turn.blocks]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**40))
def test_sessions_are_numbered_in_order_and_the_same_each_time(seed: int) -> None:
    both = workload(seed=seed, chat=CHAT, jobs=JOBS)
    sessions = list(both.sessions())
    assert [s.index for s in sessions] == list(range(len(sessions)))
    assert [s.at_s for s in sessions] == sorted(s.at_s for s in sessions)
    assert sessions[-1].at_s < 12
    assert sessions == list(workload(seed=seed, chat=CHAT, jobs=JOBS).sessions())


@settings(max_examples=30)
@given(scale=st.floats(0.1, 4.0), seed=st.integers(0, 2**40))
def test_at_another_rate_each_traffic_has_the_same_sessions(scale: float, seed: int) -> None:
    both = workload(seed=seed, chat=CHAT, jobs=JOBS)
    for name in ("chat", "jobs"):
        one, other = (
            [s for s in both.sessions(rate_scale) if s.traffic == name]
            for rate_scale in (1.0, scale)
        )
        num_both = min(len(one), len(other))
        assert planned(one[:num_both]) == planned(other[:num_both])


def test_the_rate_scale_multiplies_the_rate() -> None:
    long = workload(duration_s=400, chat=CHAT, jobs=JOBS)
    one, double = (sum(1 for _ in long.sessions(scale)) for scale in (1.0, 2.0))
    assert double == pytest.approx(2 * one, rel=0.1)


def test_other_traffic_changes_nothing() -> None:
    alone = list(workload(chat=CHAT).sessions())
    beside = [s for s in workload(jobs=JOBS, chat=CHAT).sessions() if s.traffic == "chat"]
    assert planned(beside) == planned(alone)
    assert [s.at_s for s in beside] == [s.at_s for s in alone]


def test_traffic_of_one_kind_by_two_names_is_independent() -> None:
    twins = list(workload(a=CHAT, b=CHAT).sessions())
    lengths = {
        name: [s.turns[0].prompt_tokens for s in twins if s.traffic == name][:9] for name in "ab"
    }
    assert lengths["a"] != lengths["b"]


def test_prompts_of_all_sessions_differ() -> None:
    blocks = blocks_of(workload(duration_s=60, a=CHAT, b=CHAT).sessions())
    assert len(set(blocks)) == len(blocks) > 1000
    assert all(0 <= block < 2**63 for block in blocks)


def test_another_seed_has_other_prompts() -> None:
    one, other = (set(blocks_of(workload(seed=seed, a=CHAT).sessions())) for seed in (0, 1))
    assert not one & other


def test_blocks_hold_the_prompt() -> None:
    for session in workload(chat={**CHAT, "shared_prefix_tokens": 1024}).sessions():
        for turn in session.turns:
            assert len(turn.blocks) == -(-turn.prompt_tokens // BLOCK_TOKENS)


def test_sessions_share_one_of_some_prefixes() -> None:
    chat = {**CHAT, "shared_prefix_tokens": 1024, "num_shared_prefixes": 3}
    sessions = list(workload(duration_s=120, chat=chat).sessions())
    prefixes = [s.turns[0].blocks[:2] for s in sessions]
    counts = [prefixes.count(prefix) for prefix in set(prefixes)]
    assert len(counts) == 3
    assert min(counts) > len(sessions) / 6
    own = [b for s in sessions for i, t in enumerate(s.turns) for b in t.blocks[0 if i else 2 :]]
    assert len(set(own)) == len(own)
    assert not set(own) & {block for prefix in prefixes for block in prefix}
    assert min(s.turns[0].prompt_tokens for s in sessions) > 1024


def test_turns_and_pauses() -> None:
    sessions = list(workload(duration_s=300, chat=CHAT).sessions())
    num_turns = [len(s.turns) for s in sessions]
    assert set(num_turns) == {1, 2, 3, 4}
    assert all(s.turns[0].think_s == 0.0 for s in sessions)
    pauses_s = sorted(t.think_s for s in sessions for t in s.turns[1:])
    assert pauses_s[len(pauses_s) // 2] == pytest.approx(10, rel=0.15)


def test_the_given_share_of_clients_leaves() -> None:
    sessions = list(workload(duration_s=300, chat=CHAT).sessions())
    leaving_s = [s.cancel_after_s for s in sessions if s.cancel_after_s is not None]
    assert len(leaving_s) / len(sessions) == pytest.approx(0.3, abs=0.05)
    assert all(1 <= after_s <= 2 for after_s in leaving_s)
    assert all(s.cancel_after_s is None for s in workload(jobs=JOBS).sessions())


def test_sessions_are_made_as_they_are_asked_for() -> None:
    endless = workload(duration_s=1e6, jobs={**JOBS, "arrivals": "constant:1"})
    assert [s.at_s for s in islice(endless.sessions(), 3)] == [0.0, 1.0, 2.0]


@pytest.fixture
def trace(tmp_path: Path) -> dict[str, Any]:
    rows = [(0, [10, 11]), (1000, [10, 12]), (2500, [13, 14]), (4000, [10, 11])]
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {"timestamp": at, "input_length": 600, "output_length": 5, "hash_ids": hash_ids}
            )
            + "\n"
            for at, hash_ids in rows
        )
        + json.dumps({"timestamp": 5000, "input_length": 0, "output_length": 5, "hash_ids": []})
    )
    arrivals = {"process": "trace", "path": str(path), "format": "mooncake"}
    return {"model": "m", "arrivals": arrivals}


def test_a_replay_has_the_traces_times_and_shared_blocks(trace: dict[str, Any]) -> None:
    replay = to_workload({"traffic": {"day": trace}})
    sessions = list(replay.sessions())
    assert [s.at_s for s in sessions] == [0.0, 1.0, 2.5, 4.0]
    first, second, third, fourth = (s.turns[0].blocks for s in sessions)
    assert first == fourth
    assert first[0] == second[0]
    assert len({*first, *second, *third}) == 5
    assert replay.num_dropped() == {"day": 1}
    assert replay.planned_s() == 4.0
    # Nothing comes after its end, however long the workload may last.
    longer = to_workload({"duration_s": 60, "traffic": {"day": trace}})
    assert longer.planned_s() == 4.0


def test_a_replay_is_played_faster_and_cut(trace: dict[str, Any]) -> None:
    fast = list(to_workload({"traffic": {"day": trace}}).sessions(2.0))
    assert [s.at_s for s in fast] == [0.0, 0.5, 1.25, 2.0]
    cut = to_workload({"duration_s": 2.5, "traffic": {"day": trace}})
    assert planned(cut.sessions()) == planned(fast[:2])
    assert to_workload({"traffic": {"day": trace}}).planned_s(2.0) == 2.0


def test_a_replay_without_names_shares_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2023-11-16 18:15:46.5,600,44\n" * 3
    )
    arrivals = {"process": "trace", "path": str(path), "format": "azure"}
    sessions = list(
        to_workload({"traffic": {"a": {"model": "m", "arrivals": arrivals}}}).sessions()
    )
    assert [s.at_s for s in sessions] == [0.0, 0.0, 0.0]
    assert len(set(blocks_of(sessions))) == 6


def test_steps_end_by_themselves_or_with_the_workload() -> None:
    spike = {**JOBS, "arrivals": "step:5x60,50x30"}
    whole = to_workload({"traffic": {"a": spike}})
    assert whole.planned_s() == 90.0
    cut = workload(duration_s=70, a=spike)
    early = [replace(s) for s in whole.sessions() if s.at_s < 70]
    assert list(cut.sessions()) == early
    assert cut.planned_s() == 70
