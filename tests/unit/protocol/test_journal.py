"""A stream cut at any byte goes on elsewhere without a missing, doubled or different byte."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.protocol.journal import Journal, JournalReader, Output

TEXTS = ["a", "", "é", "\N{GRINNING FACE}", '"created":1', "line\n"]
NO_LIMIT = 10**6


def answer(length: int) -> list[Output]:
    """What any engine generates."""
    outputs = [Output((n,), TEXTS[n % len(TEXTS)]) for n in range(length)]
    outputs[0] = Output((0,), "a", None, None, 128, 0)
    outputs[-1] = Output((length - 1,), "", "stop", 7)
    return outputs


def replica(
    outputs: Sequence[Output], told: bytes = b"", *, created: int, portion: int = 1
) -> Iterator[bytes]:
    """Frames of a replica whose engine gives some outputs at once, and whose application sends
    nothing for an empty text, and twice for the first output."""
    journal = Journal(told)
    assert journal.begin(can_resume=True)
    done = len(journal.token_ids)

    def chunk(content: object) -> bytes:
        body = {"id": "x", "created": created, "content": content}
        return f"data: {json.dumps(body, separators=(',', ':'))}\n\n".encode()

    def sent(record: Sequence[Output]) -> Iterator[bytes]:
        for output in record:
            if output.num_cached_tokens is not None:
                yield chunk(f"role {output.num_cached_tokens}")
            if output.text or output.finish_reason:
                yield chunk([output.text, output.finish_reason, output.stop_reason])

    for output in journal.replay():
        yield from map(journal.frame, sent([output]))
    rest = [] if journal.is_finished else outputs[done:]
    for start in range(0, len(rest), portion):
        record = rest[start : start + portion]
        for output in record:
            journal.note(output)
        yield from map(journal.frame, sent(record))
    yield journal.frame(b"data: [DONE]\n\n")


def cut(data: bytes, places: Sequence[int]) -> Iterator[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    yield from (data[a:b] for a, b in pairwise(edges))


@given(
    length=st.integers(1, 12),
    losses=st.lists(st.integers(0, 3000), max_size=3),
    places=st.lists(st.integers(0, 3000), max_size=6),
    portions=st.lists(st.integers(1, 3), min_size=4, max_size=4),
)
def test_the_client_sees_one_undisturbed_answer(
    length: int, losses: list[int], places: list[int], portions: list[int]
) -> None:
    outputs = answer(length)
    reader = JournalReader(max_bytes=NO_LIMIT)
    seen, created = b"", 0
    for number, loss in enumerate([*losses, None]):
        told = bytes(reader.records)
        if not told:
            created = 1000 + number  # nobody has seen an earlier one
        portion = portions[number]
        frames = replica(outputs, told, created=1000 + number, portion=portion)
        data = b"".join(frames)
        if number:
            reader.resume()
        if loss is not None:
            data = data[: loss % (len(data) + 1)]
        for part in cut(data, places):
            seen += reader.feed(part)
    assert reader.can_resume
    undisturbed = JournalReader(max_bytes=NO_LIMIT)
    assert seen == undisturbed.feed(b"".join(replica(outputs, created=created)))


def test_an_answer_that_cannot_be_continued_is_told_as_such() -> None:
    journal = Journal()
    assert not journal.begin(can_resume=False)
    reader = JournalReader(max_bytes=NO_LIMIT)
    assert reader.feed(journal.frame(b"some") + journal.frame(b"thing")) == b"something"
    assert not reader.can_resume


def test_bytes_that_nobody_generated_are_not_continued() -> None:
    reader = JournalReader(max_bytes=NO_LIMIT)
    assert reader.feed(Journal().frame(b"an error")) == b"an error"
    assert not reader.can_resume


def test_two_generations_are_not_continued() -> None:
    journal = Journal()
    assert journal.begin(can_resume=True)
    journal.note(Output((1,), "a"))
    assert not journal.begin(can_resume=True)
    reader = JournalReader(max_bytes=NO_LIMIT)
    assert reader.feed(journal.frame(b"a")) == b"a"
    assert not reader.can_resume


def test_what_was_begun_elsewhere_and_cannot_be_continued_here_is_lost() -> None:
    reader = JournalReader(max_bytes=NO_LIMIT)
    list(map(reader.feed, replica(answer(3), created=1)))
    journal = Journal(bytes(reader.records))
    with pytest.raises(ValueError, match="cannot be continued"):
        journal.begin(can_resume=False)
    assert journal.is_lost


def test_a_heartbeat_tells_what_the_application_holds_back() -> None:
    journal = Journal()
    reader = JournalReader(max_bytes=NO_LIMIT)
    assert reader.feed(journal.heartbeat()) == b""
    assert reader.can_resume
    journal.begin(can_resume=True)
    for token in range(10_000):
        journal.note(Output((token,), "thought"))
    assert reader.feed(journal.heartbeat()) == b""
    assert Journal(bytes(reader.records)).token_ids == list(range(10_000))
    assert reader.feed(journal.frame(b"at last")) == b"at last"


def test_records_are_kept_up_to_a_limit() -> None:
    reader = JournalReader(max_bytes=60)
    seen = b"".join(map(reader.feed, replica(answer(12), created=1)))
    assert seen.endswith(b"[DONE]\n\n")
    assert not reader.can_resume
    assert not reader.records


@pytest.mark.parametrize("told", [b"\x00", b"\0\0\0\x02ab", b"\0\0\0\x05ab", b"\0\0\0\x02\x91\x90"])
def test_what_is_no_journal_is_refused(told: bytes) -> None:
    with pytest.raises(ValueError, match="record"):
        Journal(told)
