"""Uploads end: at a size, at a time, or with the client. The clock is the loop's, and ours."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from starlette.types import Message, Send

from serving.core.types import TenantId
from serving.errors import Overloaded, RequestError
from serving.gateway.exchange import ClientGoneError, Exchange, unless_gone
from serving.settings.gateway import LimitSettings
from serving.tenancy.shared_bytes import Lease, SharedBytes

LIMITS = LimitSettings(max_body_bytes=1024, upload_timeout_s=10, min_upload_bytes_per_s=100)
LINGER_S = 2.0


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until it is idle, then jumps to its next timer."""

    now_s = 1000.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        scheduled = [timer for timer in self._scheduled if not timer.cancelled()]
        if not self._ready and scheduled:
            self.now_s = max(self.now_s, min(timer.when() for timer in scheduled))
        super()._run_once()


@pytest.fixture
def loop() -> Iterator[ManualLoop]:
    loop = ManualLoop()
    yield loop
    loop.close()


Part = tuple[float, dict[str, Any]]


class Client:
    """Sends the given messages, each after a pause in seconds; then nothing, for ever."""

    def __init__(self, *parts: Part) -> None:
        self._parts = list(parts)
        self.received: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        if not self._parts:
            await asyncio.Event().wait()
        pause_s, message = self._parts[0]
        await asyncio.sleep(pause_s)
        del self._parts[0]
        return message

    async def send(self, message: dict[str, Any]) -> None:
        self.received.append(message)

    def exchange(self, *headers: tuple[bytes, bytes]) -> Exchange:
        scope = {"method": "POST", "path": "/x", "headers": list(headers)}
        return Exchange(scope, self.receive, self.send)


def part(body: bytes = b"", *, after_s: float = 0.0, more: bool = True) -> Part:
    return after_s, {"type": "http.request", "body": body, "more_body": more}


GONE: Part = (0.0, {"type": "http.disconnect"})


def run(loop: ManualLoop, action: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await action()

    return loop.run_until_complete(main())


def lease_of(capacity: int) -> Lease:
    """Of a tenant that is alone."""
    return Lease(SharedBytes(2 * capacity), TenantId("tests"))


def read(
    loop: ManualLoop, client: Client, *headers: tuple[bytes, bytes], lease: Lease | None = None
) -> bytes:
    lease = lease or lease_of(LIMITS.max_body_bytes)
    body: bytes = run(loop, lambda: client.exchange(*headers).read_body(LIMITS, lease))
    return body


def refusal(loop: ManualLoop, client: Client, *headers: tuple[bytes, bytes]) -> str:
    with pytest.raises(RequestError) as caught:
        read(loop, client, *headers)
    return caught.value.code


def test_a_body_is_joined(loop: ManualLoop) -> None:
    assert read(loop, Client(part(b"a"), part(), part(b"b", more=False))) == b"ab"


def test_the_largest_body_is_accepted(loop: ManualLoop) -> None:
    assert len(read(loop, Client(part(b"x" * 1000), part(b"x" * 24, more=False)))) == 1024


def test_a_larger_body_is_refused_when_it_gets_there(loop: ManualLoop) -> None:
    assert refusal(loop, Client(part(b"x" * 1000), part(b"x" * 25))) == "body_too_large"


def test_memory_is_claimed_part_by_part_before_it_is_kept(loop: ManualLoop) -> None:
    client = Client(part(b"x" * 400), part(b"x" * 300, more=False))
    assert len(read(loop, client, lease=lease_of(700))) == 700
    lease = lease_of(700)
    with pytest.raises(Overloaded):
        read(loop, Client(part(b"x" * 400), part(b"x" * 400, more=False)), lease=lease)
    assert lease.size == 400


def test_tiny_parts_take_no_more_memory_than_they_claim(loop: ManualLoop) -> None:
    num_parts = 20_000
    limits = LIMITS.model_copy(update={"max_body_bytes": 2 * num_parts})

    async def receive() -> Message:
        nonlocal num_parts
        num_parts -= 1
        await asyncio.sleep(0)
        body = num_parts.to_bytes(2, "big")
        return {"type": "http.request", "body": body, "more_body": num_parts > 0}

    async def send(_message: Message) -> None:
        raise AssertionError("nothing is answered")

    async def read_all() -> bytes:
        exchange = Exchange({"method": "POST", "path": "/x", "headers": []}, receive, send)
        return await exchange.read_body(limits, lease_of(limits.max_body_bytes))

    tracemalloc.start()
    try:
        body: bytes = run(loop, read_all)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * len(body)


@pytest.mark.parametrize("length", [b"1025", b"9" * 30])
def test_a_declared_size_is_refused_unread(loop: ManualLoop, length: bytes) -> None:
    assert refusal(loop, Client(), (b"content-length", length)) == "body_too_large"


def test_a_silent_upload_ends_at_the_limit(loop: ManualLoop) -> None:
    assert refusal(loop, Client(part(b"x"))) == "upload_timeout"
    assert loop.now_s - 1000 == pytest.approx(10 + 1 / 100)


def test_dripping_does_not_buy_time(loop: ManualLoop) -> None:
    drip = [part(b"x", after_s=1.0) for _ in range(100)]
    assert refusal(loop, Client(*drip)) == "upload_timeout"
    assert loop.now_s - 1000 < 10.2


def test_a_slow_but_honest_upload_gets_its_time(loop: ManualLoop) -> None:
    """100 bytes a second is the least that is asked after the first ten seconds."""
    parts = [part(b"x" * 100, after_s=1.8) for _ in range(10)]
    assert len(read(loop, Client(*parts, part(more=False)))) == 1000
    assert loop.now_s - 1000 == pytest.approx(18)


def test_a_client_that_leaves_is_gone(loop: ManualLoop) -> None:
    with pytest.raises(ClientGoneError):
        read(loop, Client(part(b"x"), GONE))


def test_a_disconnect_is_noticed_behind_other_messages(loop: ManualLoop) -> None:
    client = Client(part(more=False), part(), GONE)
    run(loop, lambda: client.exchange().wait_for_disconnect())


def respond(loop: ManualLoop, client: Client, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    run(loop, lambda: client.exchange(*headers).respond(400, {"a": 1}, (b"x", b"y")))
    head, body = client.received
    assert json.loads(body["body"]) == {"a": 1}
    answered: dict[str, Any] = dict(head["headers"])
    assert answered[b"content-length"] == b"%d" % len(body["body"])
    assert answered[b"x"] == b"y"
    return answered


def test_an_answer_without_an_upload_keeps_the_connection(loop: ManualLoop) -> None:
    assert b"connection" not in respond(loop, Client())
    assert loop.now_s == 1000


@pytest.mark.parametrize(
    "header", [(b"content-length", b"5000"), (b"transfer-encoding", b"chunked")]
)
def test_a_refused_upload_is_swallowed_for_a_while(
    loop: ManualLoop, header: tuple[bytes, bytes]
) -> None:
    drip = [part(b"x", after_s=0.3) for _ in range(100)]

    assert respond(loop, Client(*drip), header)[b"connection"] == b"close"
    assert loop.now_s - 1000 == pytest.approx(LINGER_S)


def test_a_refused_upload_that_ends_is_answered_at_once(loop: ManualLoop) -> None:
    client = Client(part(b"x"), part(more=False))

    respond(loop, client, (b"content-length", b"1"))
    assert loop.now_s == 1000


def test_a_head_tells_whether_a_stream_follows(loop: ManualLoop) -> None:
    async def start(media_type: bytes) -> bool:
        exchange = Client().exchange()
        assert not exchange.started
        await exchange.start(200, [(b"content-type", media_type)])
        assert exchange.started
        return exchange.is_event_stream

    assert run(loop, lambda: start(b"text/event-stream; charset=utf-8"))
    assert not run(loop, lambda: start(b"application/json"))


def test_an_untaken_write_shows_since_when(loop: ManualLoop) -> None:
    async def stall() -> tuple[float | None, float | None]:
        taken = asyncio.Event()

        async def send(message: dict[str, Any]) -> None:
            await taken.wait()

        exchange = Exchange({"method": "GET", "path": "/", "headers": []}, Client().receive, send)
        writing = asyncio.create_task(exchange.write(b"abc"))
        await asyncio.sleep(5)
        during = exchange.sending_since
        taken.set()
        await writing
        assert exchange.bytes_sent == 3
        return during, exchange.sending_since

    assert run(loop, stall) == (1000.0, None)


# --- giving work up when the client leaves -------------------------------------------------------


class Body:
    """Something that a request holds."""


async def test_nothing_stays_of_what_failed_work_has_held() -> None:
    async def work(_body: Body) -> None:
        raise KeyError

    body = Body()
    held = weakref.ref(body)
    gc.disable()
    try:
        with contextlib.suppress(KeyError):
            await unless_gone(Client().exchange(), work(body))
        del body
        await asyncio.sleep(0)  # the loop's own step holds what woke this task
        assert held() is None
    finally:
        gc.enable()


# --- pushing parts -------------------------------------------------------------------------------


def pushing(send: Send) -> Exchange:
    async def receive() -> Message:
        return await asyncio.Event().wait() and {}

    return Exchange({"method": "POST", "path": "/x", "headers": []}, receive, send)


async def test_a_part_that_the_client_takes_is_sent_at_once() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    exchange = pushing(send)
    assert exchange.push(b"abc") is None
    assert sent == [{"type": "http.response.body", "body": b"abc", "more_body": True}]
    assert exchange.bytes_sent == 3
    assert exchange.sending_since is None


async def test_a_part_that_has_to_wait_is_sent_by_whoever_awaits_the_rest() -> None:
    sent: list[Message] = []
    is_free = asyncio.Event()

    async def send(message: Message) -> None:
        await is_free.wait()
        await asyncio.sleep(0)  # waits more than once
        sent.append(message)

    exchange = pushing(send)
    rest = exchange.push(b"abc")
    assert rest is not None
    assert exchange.sending_since is not None
    task = asyncio.ensure_future(rest)
    await asyncio.sleep(0)
    assert not sent
    is_free.set()
    await task
    assert [message["body"] for message in sent] == [b"abc"]
    assert exchange.sending_since is None


async def test_a_part_that_waits_can_be_given_up() -> None:
    cleaned: list[str] = []

    async def send(_message: Message) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("yes")

    rest = pushing(send).push(b"abc")
    assert rest is not None
    task = asyncio.ensure_future(rest)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["yes"]


async def test_an_error_of_the_server_reaches_the_pusher() -> None:
    async def send(_message: Message) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        pushing(send).push(b"abc")
