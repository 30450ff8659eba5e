"""What stands outside of strings is found whatever they hold, wherever a piece ends."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.protocol.outside_strings import outside_strings

SLICE_BYTES = 65_536

texts = st.text(alphabet='\\"[],{}a\n', max_size=9)
values = st.recursive(
    texts, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
)


def skeleton(value: Any) -> str:
    """The value's JSON without strings, by its own definition."""
    match value:
        case str():
            return ""
        case list():
            return "[" + ",".join(map(skeleton, value)) + "]"
        case _:
            return "{" + ",".join(":" + skeleton(inner) for inner in value.values()) + "}"


@given(
    value=values,
    filling=st.sampled_from(["a", "\\", '"', '\\"']),
    near_end=st.integers(-6, 40),
)
def test_only_strings_are_left_out(value: Any, filling: str, near_end: int) -> None:
    """The filling, a string itself, brings the value to where a piece ends."""
    num = (SLICE_BYTES - near_end) // (len(json.dumps(filling)) - 2)
    document = [filling * num, value]
    text = json.dumps(document, separators=(",", ":")).encode()
    pieces = list(outside_strings(text))
    assert b"".join(pieces).decode() == skeleton(document)
    assert len(pieces) == -(-len(text) // SLICE_BYTES) or len(text) % SLICE_BYTES < 4


@pytest.mark.parametrize("unit", [b'"",1', b'"a"', b'{"":""}', rb'"\""', rb'"\\"'])
def test_tiny_strings_take_no_memory(unit: bytes) -> None:
    text = b"[" + b",".join([unit] * (2**20 // len(unit))) + b"]"
    tracemalloc.start()
    try:
        for _ in outside_strings(text):
            pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * len(text)


@given(st.binary(max_size=64))
def test_what_is_no_json_ends_as_well(text: bytes) -> None:
    assert sum(map(len, outside_strings(text))) <= len(text)
