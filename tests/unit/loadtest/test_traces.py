"""Made-up traces look like Mooncake's; what is replayed shares exactly what the trace says."""

import json
import statistics
from pathlib import Path
from random import Random

import pytest

from loadtest.figures import quantile
from loadtest.traces import (
    BLOCK_TOKENS,
    TraceRequest,
    generate,
    oracle_hit_ratio,
    prompt_of,
    read_trace,
)
from serving.rendering.tokenizer import PieceTokenizer

NUM_REQUESTS = 3000
ENDLESS = 10**12
FLEET = 3_580_000


@pytest.fixture(scope="module")
def made_up() -> list[TraceRequest]:
    return generate(NUM_REQUESTS, Random(0))


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def row(timestamp: int, *hash_ids: int) -> dict[str, object]:
    return {"timestamp": timestamp, "input_length": 600, "output_length": 5, "hash_ids": hash_ids}


def test_a_made_up_trace_has_mooncakes_statistics(made_up: list[TraceRequest]) -> None:
    """Those of the first 3,000 requests of its conversation trace: the oracle finds 32 and 16 %."""
    assert made_up[-1].at_s == pytest.approx(987, rel=0.15)
    inputs = [request.input_tokens for request in made_up]
    for share, expected in ((0.25, 2714), (0.5, 8001), (0.75, 17_071), (0.9, 29_381)):
        assert quantile(inputs, share) == pytest.approx(expected, rel=0.35)
    assert statistics.mean(inputs) == pytest.approx(13_517, rel=0.2)
    assert statistics.mean(r.output_tokens for r in made_up) == pytest.approx(350, rel=0.1)
    assert oracle_hit_ratio(made_up, capacity_tokens=ENDLESS) == pytest.approx(0.32, abs=0.05)
    assert oracle_hit_ratio(made_up, capacity_tokens=FLEET) == pytest.approx(0.16, abs=0.05)


def test_a_made_up_trace_is_the_same_each_time(made_up: list[TraceRequest]) -> None:
    assert generate(NUM_REQUESTS, Random(0)) == made_up
    assert [r.at_s for r in made_up] == sorted(r.at_s for r in made_up)


def test_prompts_share_what_their_blocks_share() -> None:
    tokenizer = PieceTokenizer()
    one, other = (
        tokenizer.encode(prompt_of(TraceRequest(0.0, tokens, 1, blocks)))
        for tokens, blocks in ((1200, (0, 7, 8)), (1500, (0, 7, 9)))
    )
    assert (len(one), len(other)) == (1200, 1500)
    shared = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert 2 * BLOCK_TOKENS <= shared < 2 * BLOCK_TOKENS + 3


def test_requests_of_one_timestamp_are_spread(tmp_path: Path) -> None:
    path = write(tmp_path / "trace", row(0, 1, 2), row(0, 1, 3), row(3000, 1, 2))
    assert [r.at_s for r in read_trace(path, 9)] == [0.0, 1.5, 3.0]
    assert len(read_trace(path, 2)) == 2


@pytest.mark.parametrize("text", ["", "no json", '{"timestamp": 1}', "[]"])
def test_another_file_is_no_trace(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(ValueError, match="is no trace"):
        read_trace(path, 9)
