"""Trace files are read exactly, or refused with the line that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ConfigError
from serving.lab.traces import TraceRequest, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9305901,396,109
"""
MOONCAKE = '{"timestamp": 500, "input_length": 9, "output_length": 4, "hash_ids": [1]}\n'
GALERNE = '{"at_s": 2.5, "prompt_tokens": 7, "output_tokens": 1}\n'
TRACES = os.environ.get("GALERNE_TRACES")
"""Folder with the published traces, which are not ours to check in."""


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "trace"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def mooncake(*requests: tuple[int, int]) -> str:
    """Lines of (timestamp, input_length)."""
    return "".join(
        json.dumps(
            {
                "timestamp": at_ms,
                "input_length": length,
                "output_length": 5,
                "hash_ids": list(range(-(-length // 512))),
            }
        )
        + "\n"
        for at_ms, length in requests
    )


def galerne(*times_s: float) -> str:
    return "".join(
        json.dumps({"at_s": at_s, "prompt_tokens": 7, "output_tokens": 1}) + "\n"
        for at_s in times_s
    )


def times_of(path: Path, format_: str) -> list[float]:
    return [request.at_s for request in read_trace(path, format_).requests]


def test_azure(tmp_path: Path) -> None:
    one, other = read_trace(written(tmp_path, AZURE), "azure").requests
    assert (one.prompt_tokens, one.output_tokens, one.blocks) == (374, 44, None)
    assert other.at_s == pytest.approx(4.2500001, abs=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        AZURE.replace("\n", "\r\n"),
        "\ufeff" + AZURE,
        AZURE.rstrip(),
        AZURE.replace("46.6805900", "46.68059+00:00").replace("50.9305901", "50.9305901Z"),
        AZURE.replace("374,44", " 374 ,44").replace("\n2", "\n\n2"),
    ],
    ids=["crlf", "byte order mark", "no last newline", "time zone", "blanks"],
)
def test_azure_as_other_tools_write_it(tmp_path: Path, text: str) -> None:
    trace = read_trace(written(tmp_path, text), "azure")
    assert [(r.prompt_tokens, r.output_tokens) for r in trace.requests] == [(374, 44), (396, 109)]
    assert trace.requests[1].at_s == pytest.approx(4.25, abs=1e-6)


def test_mooncake(tmp_path: Path) -> None:
    text = MOONCAKE + MOONCAKE.replace("500", "600").replace("9", "513").replace("[1]", "[1, 8]")
    trace = read_trace(written(tmp_path, text), "mooncake")
    assert trace.requests == (
        TraceRequest(0.0, 9, 4, (1,)),
        TraceRequest(pytest.approx(0.1), 513, 4, (1, 8)),
    )


@pytest.mark.parametrize(
    ("timestamps_ms", "expected_s"),
    [
        ([0, 0, 3000], [0.0, 1.5, 3.0]),
        ([0, 0, 5999, 5999, 5999], [0.0, 1.5, 5.999, 6.999, 7.999]),
        ([0, 0, 0, 90_000], [0.0, 1.0, 2.0, 90.0]),
        ([7, 7, 9], [0.0, 0.001, 0.002]),
    ],
    ids=["three seconds", "the last batch", "a gap", "exact times"],
)
def test_a_batch_is_spread_over_its_three_seconds(
    tmp_path: Path, timestamps_ms: list[int], expected_s: list[float]
) -> None:
    path = written(tmp_path, mooncake(*((at_ms, 9) for at_ms in timestamps_ms)))
    assert times_of(path, "mooncake") == pytest.approx(expected_s, abs=1e-9)


def test_a_limit_does_not_change_when_the_first_ones_come(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake((0, 9), (0, 9), (0, 9), (3000, 9)))
    limited = read_trace(path, "mooncake", limit=2)
    assert limited.requests == read_trace(path, "mooncake").requests[:2]


def test_speed_divides_times(tmp_path: Path) -> None:
    path = written(tmp_path, galerne(1.0, 3.0))
    assert [r.at_s for r in read_trace(path, "galerne", speed=4.0).requests] == [0.0, 0.5]


def test_gaps_and_equal_times_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path, galerne(5.0, 5.0, 5.0, 9000.0))
    assert times_of(path, "galerne") == [0.0, 0.0, 0.0, 8995.0]


def test_a_month_is_no_gap_too_long(tmp_path: Path) -> None:
    month_s = 31 * 86_400.0
    assert times_of(written(tmp_path, galerne(7.0, 7.0 + month_s)), "galerne") == [0.0, month_s]


def test_our_own_format_may_name_blocks(tmp_path: Path) -> None:
    text = '{"at_s": 0, "prompt_tokens": 600, "output_tokens": 2, "blocks": [3, 4]}\n\n' + GALERNE
    one, other = read_trace(written(tmp_path, text), "galerne").requests
    assert (one.blocks, other.blocks) == ((3, 4), None)


def test_requests_of_length_0_are_left_out_and_counted(tmp_path: Path) -> None:
    text = mooncake((0, 0), (1000, 9)) + MOONCAKE.replace("500", "2000").replace("4", "0")
    trace = read_trace(written(tmp_path, text), "mooncake")
    assert (len(trace.requests), trace.num_dropped) == (1, 2)
    assert trace.requests[0].at_s == 0.0
    with pytest.raises(ConfigError, match="has no requests, only 2 of length 0"):
        read_trace(written(tmp_path, mooncake((0, 0), (1, 0))), "mooncake")


@pytest.mark.parametrize(
    ("format_", "text", "message"),
    [
        ("mooncake", MOONCAKE + MOONCAKE.replace("500", "400"), "line 2: it is 0.1 s before the"),
        ("galerne", galerne(3.0, 1.0, 2.0), "line 2: it is 2 s before the line above"),
        ("azure", AZURE + AZURE.splitlines()[1], "line 4: it is 4.25 s before the line above"),
        ("galerne", galerne(0.0, 1e15), r"line 2: it is 1.16e\+10 days after the first request"),
        ("galerne", galerne(5.0, 9.0, 1.7e9), r"line 3: it is 1.97e\+04 days after the first"),
        ("galerne", galerne(0.0, 1e308), "line 2: .*; traces last 31 at most"),
        ("mooncake", mooncake((0, 0), (10**13, 9)), "line 2: it is 1.16e"),
        ("azure", AZURE.replace("2023-11-16 18:15:50", "2024-11-16 18:15:50"), "366 days after"),
        ("mooncake", MOONCAKE.replace("[1]", "[1, 2]"), "line 1: it names 2 blocks, and a prompt"),
        ("mooncake", MOONCAKE.replace("[1]", "[]"), "of 9 tokens has 1 of 512"),
        ("galerne", GALERNE.replace("}", ', "blocks": []}'), "line 1: it names 0 blocks"),
        ("mooncake", MOONCAKE * 2 + MOONCAKE[:40], "line 3: Input data was truncated"),
        ("galerne", "\n" + GALERNE[:-9] + "\n" + GALERNE, "line 2: JSON is malformed|truncated"),
        ("mooncake", MOONCAKE.replace("9", "-9"), r"line 1: Expected `int` >= 0 - at `\$.input_le"),
        ("galerne", GALERNE.replace("2.5", "-1"), r">= 0.* - at `\$.at_s`"),
        ("galerne", GALERNE.replace("2.5", "NaN"), "line 1: JSON is malformed"),
        ("galerne", GALERNE.replace("2.5", "1e999"), "line 1: Number out of range"),
        ("galerne", GALERNE.replace("2.5", '"2"'), r"Expected `float`, got `str` - at `\$.at_s`"),
        ("galerne", GALERNE.replace("7", "7.5"), r"Expected `int`, got `float`.*prompt_tokens"),
        ("galerne", GALERNE.replace("7", "true"), "Expected `int`, got `bool`"),
        ("galerne", GALERNE.replace("7", "10000001"), "<= 10000000"),
        ("galerne", GALERNE.replace("prompt_tokens", "tokens"), "unknown field `tokens`"),
        ("galerne", '{"at_s": 1}', "missing required field `prompt_tokens`"),
        ("galerne", "[]", "Expected `object`, got `array`"),
        ("galerne", "no json", "line 1: JSON is malformed"),
        ("galerne", b'{"at_s": "\xff"}', "line 1: .*at_s"),
        ("galerne", b"\x1f\x8b\x08\x00", "line 1: JSON is malformed"),
        ("azure", GALERNE, "line 1: the header has no column TIMESTAMP"),
        ("azure", AZURE.replace("ContextTokens", "Tokens"), "the header has no column Context"),
        ("azure", AZURE + "2023-11-16 18:16:00,3", "line 4: 2 fields, not 3"),
        ("azure", AZURE + "2023-11-16 18:1", "line 4: 1 fields, not 3"),
        ("azure", AZURE.replace("374", "-374"), "line 2: '-374' is no number of tokens"),
        ("azure", AZURE.replace("374", "nan"), "line 2: 'nan' is no number of tokens"),
        ("azure", AZURE.replace("374", ""), "line 2: '' is no number of tokens"),
        ("azure", AZURE.replace("374", "٣"), "is no number of tokens"),
        ("azure", AZURE.replace("374", "9" * 5000), "is no number of tokens"),
        ("azure", AZURE.replace("11-16", "13-16"), "line 2: TIMESTAMP: month must be"),
        ("azure", AZURE.replace("2023-", ""), "line 2: TIMESTAMP: '11-16 18:15:46.6805900' is no"),
        ("azure", AZURE.encode() + b"\xff", "line 4: it is not UTF-8 text"),
        ("azure", AZURE + '"', "line 4: unexpected end of data"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, format_: str, text: str | bytes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_trace(written(tmp_path, text), format_)
    assert caught.value.message.startswith(f"{tmp_path / 'trace'} is no trace of the format")
    assert caught.value.hint


@pytest.mark.parametrize("format_", ["azure", "mooncake", "galerne"])
@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, format_: str, text: str) -> None:
    with pytest.raises(ConfigError, match="has no requests"):
        read_trace(written(tmp_path, text), format_)


def test_a_header_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no requests"):
        read_trace(written(tmp_path, AZURE.splitlines()[0]), "azure")


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere: No such file"):
        read_trace(tmp_path / "nowhere", "azure")
    with pytest.raises(ConfigError, match="there is no trace format 'parquet'") as caught:
        read_trace(tmp_path, "parquet")
    assert caught.value.hint == "--format is one of mooncake, azure, galerne"


@given(st.binary(max_size=200), st.sampled_from(["azure", "mooncake", "galerne"]))
@settings(deadline=None)
def test_garbage_is_refused_and_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, format_: str
) -> None:
    path = written(tmp_path_factory.getbasetemp(), garbage)
    with pytest.raises(ConfigError):
        read_trace(path, format_)


def test_reading_a_trace_imports_no_compiler(tmp_path: Path) -> None:
    program = (
        "import sys, loadtest.workload.spec, serving.lab.traces; sys.exit('numba' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.skipif(TRACES is None, reason="GALERNE_TRACES names no folder of published traces")
@pytest.mark.parametrize(
    ("name", "format_", "num_requests", "span_s"),
    [
        ("mooncake_conversation.jsonl", "mooncake", 12_031, 3540),
        ("azure_conv.csv", "azure", 19_366, 3502),
    ],
)
def test_published_traces(name: str, format_: str, num_requests: int, span_s: float) -> None:
    trace = read_trace(Path(TRACES or "") / name, format_)
    assert (len(trace.requests), trace.num_dropped) == (num_requests, 0)
    assert trace.requests[-1].at_s == pytest.approx(span_s, abs=1.0)
