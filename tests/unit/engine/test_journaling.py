"""What a listener does to a request and its answer so that another replica can go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.engine import journaling
from serving.engine.journaling import BadJournalError, is_journaled, serve_journaled
from serving.protocol.journal import EMPTY_FRAME, JournalReader, Output, current_journal

STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]


class Application:
    """Answers with what it was sent, in two parts of one output each."""

    def __init__(self, headers: Any = STREAM, status: int = 200) -> None:
        self.headers = headers
        self.status = status
        self.body = b""
        self.scope: Any = None
        self.loses_engine = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        more = True
        while more:
            message = await receive()
            self.body += message["body"]
            more = message["more_body"]
        journal = current_journal.get()
        assert journal is not None
        journal.begin(can_resume=True)
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for _ in journal.replay():
            await send({"type": "http.response.body", "body": b"again", "more_body": True})
        for number in range(len(journal.token_ids), 3):
            journal.note(Output((number,), "x"))
            await send({"type": "http.response.body", "body": b"chunk", "more_body": True})
            if self.loses_engine:
                journal.is_lost = True
        await send({"type": "http.response.body", "body": b"end", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def call(
    app: Application, *parts: bytes, headers: Any = ()
) -> tuple[list[dict[str, Any]], JournalReader]:
    messages = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {"headers": [(b"x-galerne-journal", b"v1"), *headers]}
    await serve_journaled(app, scope, receive, send, version="v1")
    assert current_journal.get() is None
    return sent, JournalReader(max_bytes=10**6)


def seen(sent: list[dict[str, Any]], reader: JournalReader) -> bytes:
    return b"".join(reader.feed(message["body"]) for message in sent[1:])


def test_only_who_asks_gets_a_journal() -> None:
    assert is_journaled({"headers": [(b"x-galerne-journal", b"1")]})
    assert not is_journaled({"headers": [(b"x-galerne-token", b"1")]})


async def test_a_stream_is_framed() -> None:
    sent, reader = await call(Application(), b"hello")
    assert (b"x-galerne-journal", b"v1") in sent[0]["headers"]
    assert seen(sent, reader) == b"chunkchunkchunkend"
    assert reader.records
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize(
    ("headers", "status"), [([(b"content-type", b"application/json")], 200), (STREAM, 400)]
)
async def test_other_answers_pass_as_they_are(headers: Any, status: int) -> None:
    sent, _ = await call(Application(headers, status), b"hello")
    assert sent[0]["headers"] == headers
    assert b"".join(message["body"] for message in sent[1:]) == b"chunkchunkchunkend"


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_the_journal_is_taken_off_the_body(size: int) -> None:
    sent, reader = await call(Application(), b"hello")
    reader.feed(sent[1]["body"])
    told = bytes(reader.records) + b"hello"
    parts = [told[start : start + size] for start in range(0, len(told), size)]
    length = b"%d" % len(reader.records)
    headers = [(b"content-length", b"99"), (b"x-galerne-resume", length)]
    app = Application()

    sent, _ = await call(app, *parts, headers=headers)

    assert app.body == b"hello"
    assert b"content-length" not in dict(app.scope["headers"])
    reader.resume()
    assert seen(sent, reader) == b"chunkchunkend"


@pytest.mark.parametrize(("size", "body"), [(9, b"hello"), (5, b"hello"), (4, b"\x00\x00\x00\x00")])
async def test_what_is_no_journal_is_refused(size: int, body: bytes) -> None:
    with pytest.raises(BadJournalError):
        await call(Application(), body, headers=[(b"x-galerne-resume", b"%d" % size)])


async def test_a_quiet_answer_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journaling, "HEARTBEAT_S", 0)

    async def quiet(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": STREAM})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"end", "more_body": False})

    sent, reader = await call(quiet, b"")  # type: ignore[arg-type]  # as good as the class
    assert EMPTY_FRAME in [message["body"] for message in sent[1:-1]]
    assert seen(sent, reader) == b"end"


async def test_another_version_does_not_go_on() -> None:
    sent, reader = await call(Application(), b"hello")
    reader.feed(sent[1]["body"])
    told = bytes(reader.records)
    other = [(b"x-galerne-journal", b"v2"), (b"x-galerne-resume", b"%d" % len(told))]
    with pytest.raises(BadJournalError):
        await call(Application(), told + b"hello", headers=other)


async def test_nothing_follows_when_the_engine_is_lost() -> None:
    app = Application()
    app.loses_engine = True
    sent, reader = await call(app, b"hello")
    assert seen(sent, reader) == b"chunk"
    assert sent[-1]["more_body"], "the connection breaks instead of ending"
