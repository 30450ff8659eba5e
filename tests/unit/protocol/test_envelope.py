"""The envelope agrees with a naive reader, and stays cheap on bodies made to hurt."""

from __future__ import annotations

import contextlib
import json
import time
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import RequestError
from serving.protocol.envelope import Envelope, read_envelope

# Machines under load stall at random; that is no property of the code under test.
patient = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

MAX_DEPTH = 4
HOSTILE_BYTES = 1024 * 1024
CPU_S = 0.5

tricky_text = st.one_of(
    st.text(alphabet='[]{}",:\\ax\u00e9\U0001f600\n', max_size=12), st.text(max_size=8)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | tricky_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tricky_text, inner, max_size=3),
    max_leaves=12,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def refusal(body: bytes, *, max_depth: int = MAX_DEPTH) -> tuple[str, str | None]:
    with pytest.raises(RequestError) as caught:
        read_envelope(body, max_depth=max_depth)
    return caught.value.code, caught.value.param


@patient
@given(
    extra=json_values,
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
    max_depth=st.integers(1, 6),
)
def test_the_depth_limit_agrees_with_a_naive_reader(
    extra: Any, ascii_only: bool, indent: int | None, max_depth: int
) -> None:
    document = {"x": extra, "model": "demo"}
    body = json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode(
        "utf-8", "surrogatepass"
    )

    try:
        body.decode()
    except UnicodeDecodeError:
        assert refusal(body, max_depth=max_depth) == ("invalid_utf8", None)
        return
    if depth_of(document) > max_depth:
        assert refusal(body, max_depth=max_depth) == ("json_too_deep", None)
    else:
        assert read_envelope(body, max_depth=max_depth) == Envelope(model="demo")


@patient
@given(st.binary(max_size=64) | st.text(alphabet='[]{}":\\model ,1', max_size=64).map(str.encode))
def test_no_body_is_more_than_refused(body: bytes) -> None:
    with contextlib.suppress(RequestError):
        read_envelope(body, max_depth=MAX_DEPTH)


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_limit_itself_is_allowed(depth: int, opening: bytes, closing: bytes) -> None:
    nested = opening * (depth - 1) + b"1" + closing * (depth - 1)
    body = b'{"model": "demo", "x": ' + nested + b"}"

    if depth <= MAX_DEPTH:
        assert read_envelope(body, max_depth=MAX_DEPTH).model == "demo"
    else:
        assert refusal(body) == ("json_too_deep", None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", ("invalid_json", None)),
        (b'{"model": "demo"', ("invalid_json", None)),
        (b'{"model": "demo"} x', ("invalid_json", None)),
        (b"\xef\xbb\xbf{}", ("invalid_type", None)),
        (b"[1]", ("invalid_type", None)),
        (b"  7", ("invalid_type", None)),
        (b"{}", ("missing_model", "model")),
        (b'{"model": ["demo"]}', ("invalid_type", "model")),
        (b'{"model": "demo", "stream": 1}', ("invalid_type", "stream")),
        (b'{"model": "\xc3"}', ("invalid_utf8", None)),
        (b'{"model": "demo", "x": ' + b"[" * 5 + b"]" * 5 + b"}", ("json_too_deep", None)),
    ],
)
def test_a_bad_body_is_told_what_is_wrong(body: bytes, expected: tuple[str, str | None]) -> None:
    code, param = refusal(body)
    if body.startswith(b"\xef\xbb\xbf"):
        assert code in {"invalid_json", "invalid_type"}
    else:
        assert (code, param) == expected


@pytest.mark.parametrize("stream", [True, False, None])
def test_stream_is_optional(stream: bool | None) -> None:
    body = json.dumps({"model": "demo", "stream": stream}).encode()
    assert read_envelope(body, max_depth=MAX_DEPTH) == Envelope("demo", stream)


def test_of_two_models_the_last_counts_as_in_the_engine() -> None:
    body = b'{"model": "a", "model": "b"}'
    assert read_envelope(body, max_depth=MAX_DEPTH).model == json.loads(body)["model"]


def of_size(unit: bytes, *, head: bytes = b"", tail: bytes = b"") -> bytes:
    return head + unit * (HOSTILE_BYTES // len(unit)) + tail


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(of_size(b'\\"', head=b'{"a":"'), id="escaped-quotes"),
        pytest.param(of_size(b"\\\\", head=b'{"a":"', tail=b"\\"), id="backslashes"),
        pytest.param(of_size(b"["), id="openings"),
        pytest.param(of_size(b"]"), id="closings"),
        pytest.param(of_size(b"[]"), id="pairs"),
        pytest.param(of_size(b"[[]"), id="crooked-pairs"),
        pytest.param(of_size(b'{"a":'), id="objects"),
        pytest.param(of_size(b'["'), id="unterminated"),
        pytest.param(of_size(b'"a",', head=b"[", tail=b"1]"), id="tiny-strings"),
        pytest.param(of_size(b'"[",', head=b'{"model":"m","x":[', tail=b"1]}"), id="brackets"),
        pytest.param(of_size(b"9", head=b'{"model":"m","x":', tail=b"}"), id="number"),
        pytest.param(
            of_size(b"[" * 60 + b"]" * 60 + b",", head=b'{"model":"m","x":[', tail=b"1]}"),
            id="many-deep",
        ),
    ],
)
def test_a_hostile_body_costs_bounded_time(body: bytes) -> None:
    started = time.process_time()
    with contextlib.suppress(RequestError):
        read_envelope(body, max_depth=64)
    assert time.process_time() - started < CPU_S


@pytest.mark.parametrize("unit", [b"[]", b"{}", b'{"":""}', b"1.5", b'""'])
@pytest.mark.parametrize("field", ["x", "user", "prompt_cache_key", "cache_salt", "model"])
def test_a_hostile_body_takes_no_memory(field: str, unit: bytes) -> None:
    units = b",".join([unit] * (HOSTILE_BYTES // len(unit)))
    body = b'{"model":"m","%b":[%b],"model":"m"}' % (field.encode(), units)
    assert peak_bytes_of(body) < 3 * 2**20


def test_one_emoji_does_not_make_a_large_body_larger() -> None:
    assert peak_bytes_of(b'{"model":"m","x":"%b\xf0\x9f\x98\x80"}' % (b"x" * 2**22)) < 2**20


def peak_bytes_of(body: bytes) -> int:
    """What reading takes beside the body."""
    tracemalloc.start()
    try:
        with contextlib.suppress(RequestError):
            read_envelope(body, max_depth=64)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("at_end", [False, True])
def test_utf8_is_judged_across_slices(before: int, at_end: bool) -> None:
    """Some character begins in one slice and ends in the next; the place of a wrong byte is that in
    the body."""
    head = b'{"model": "demo", "x": "' + b"x" * before + "\U0001f600".encode() * 40_000
    tail = b"" if at_end else b'" }'
    if not at_end:
        assert read_envelope(head + tail, max_depth=MAX_DEPTH).model == "demo"
    with pytest.raises(RequestError) as refused:
        read_envelope(head + b"\xf0\x9f" + tail, max_depth=MAX_DEPTH)
    assert refused.value.message == f"The body is not valid UTF-8 (byte {len(head)})"


@pytest.mark.parametrize("value", ["a", "", "\u00e9\n", None, 5, 1.5, False, [], {"a": [1]}])
def test_of_fields_that_should_be_text_anything_else_stands_as_it_came(value: object) -> None:
    fields = dict.fromkeys(("user", "prompt_cache_key", "cache_salt"), value)
    envelope = read_envelope(json.dumps({"model": "demo", **fields}).encode(), max_depth=MAX_DEPTH)
    for found in (envelope.user, envelope.prompt_cache_key, envelope.cache_salt):
        if value is None or isinstance(value, str):
            assert found == value
        else:
            assert isinstance(found, msgspec.Raw)
            assert json.loads(bytes(found)) == value
    assert envelope.session == (value if isinstance(value, str) and value else None)


@pytest.mark.parametrize(
    ("text", "is_alone"),
    [
        (rb"\ud800", True),
        (rb"\udc00", True),
        (rb"\uDBFF\u0041", True),
        (rb"\ud83c\udf0a\ud83c", True),
        (rb"\\\ud800", True),
        (rb"\ud83c\udf0a \x", False),
        (rb"\\ud800 \x", False),
    ],
)
def test_half_of_a_surrogate_pair_is_called_what_it_is(text: bytes, is_alone: bool) -> None:
    with pytest.raises(RequestError) as refused:
        read_envelope(b'{"model": "demo", "x": "' + text + b'"}', max_depth=MAX_DEPTH)

    assert refused.value.code == "invalid_json"
    assert ("stands alone" in refused.value.message) is is_alone
    assert "truncated" not in refused.value.message
