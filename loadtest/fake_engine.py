"""An engine with exactly known timing, for measuring what stands in front of it.

    python -m loadtest.fake_engine --port 9000 --model sim --ttft-s 0.02 --interval-s 0.05

It answers streamed chat completions with `max_tokens` chunks: the first `ttft_s` after the
request, one more for every stream at each tick of `interval_s`, as an engine's steps would. Nothing
is computed, parsed beyond the request's head and two fields, or logged, so that it costs as little
as possible beside what is measured. The rest of vLLM's interface is what routers ask for before
they send requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from dataclasses import dataclass
from typing import cast

import uvloop

_END_OF_HEAD = b"\r\n\r\n"
_CHUNK = {
    "id": "chatcmpl-0123456789abcdef0123456789abcdef", "object": "chat.completion.chunk",
    "created": 1767225600, "model": "sim",
    "choices": [{"index": 0, "delta": {"content": " token"}, "logprobs": None,
                 "finish_reason": None}],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Timing:
    """When chunks leave."""

    ttft_s: float
    interval_s: float


class Engine:
    """The streams that run, and the tick that moves them all."""

    def __init__(self, model: str, timing: Timing) -> None:
        self.model = model
        self.timing = timing
        self.chunk = frame(event({**_CHUNK, "model": model}))
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
        finish = event({**_CHUNK, "model": model, "choices": [last]})
        self.end = frame(finish) + frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self.streams: dict[Connection, int] = {}

    async def tick_forever(self) -> None:
        """One chunk for each running stream at every multiple of the interval."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            due_s += self.timing.interval_s
            await asyncio.sleep(max(due_s - loop.time(), 0))
            for connection in list(self.streams):
                self.advance(connection)

    def advance(self, connection: Connection) -> None:
        """The stream's next chunk, and its end after the last one."""
        left = self.streams[connection] - 1
        self.streams[connection] = left
        if left > 0:
            connection.write(self.chunk)
            return
        del self.streams[connection]
        connection.write(self.chunk + self.end)
        connection.next_request()

    def answer(self, path: str) -> bytes:
        """The body of a GET, or of a completion that is not streamed."""
        match path:
            case "/v1/models":
                model = {"id": self.model, "object": "model", "owned_by": "vllm",
                         "root": self.model, "max_model_len": 32768}  # fmt: skip
                return json.dumps({"object": "list", "data": [model]}).encode()
            case "/version":
                return b'{"version": "0.32.0"}'
            case "/v1/chat/completions":
                message = {"role": "assistant", "content": " token"}
                choice = {"index": 0, "message": message, "finish_reason": "length"}
                body = {**_CHUNK, "object": "chat.completion", "model": self.model}
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                return json.dumps({**body, "choices": [choice], "usage": usage}).encode()
            case _:
                return b"{}"


class Connection(asyncio.Protocol):
    """One client connection: a request at a time, kept alive."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._received = b""
        self._busy = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        # uvloop's transports do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _error: Exception | None) -> None:
        """A client that left gets no more chunks."""
        self._transport = None
        self._engine.streams.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Start the request once it is whole."""
        self._received += data
        self.next_request(finished=False)

    def write(self, data: bytes) -> None:
        """Send, unless the client has gone."""
        if self._transport is not None:
            self._transport.write(data)

    def next_request(self, *, finished: bool = True) -> None:
        """Take the next whole request from what has been received, if none is being answered."""
        self._busy = self._busy and not finished
        head, separator, rest = self._received.partition(_END_OF_HEAD)
        length = content_length(head)
        if self._busy or not separator or len(rest) < length:
            return
        body, self._received = rest[:length], rest[length:]
        self._begin(head.split(b" ", 2)[1].decode().partition("?")[0], body)

    def _begin(self, path: str, body: bytes) -> None:
        wanted = json.loads(body) if body else {}
        if path != "/v1/chat/completions" or not wanted.get("stream"):
            answer = self._engine.answer(path)
            self.write(_head("application/json", b"Content-Length: %d" % len(answer)) + answer)
            return
        self._busy = True
        num_tokens = wanted.get("max_tokens") or wanted.get("max_completion_tokens") or 16
        loop = asyncio.get_running_loop()
        loop.call_later(self._engine.timing.ttft_s, self._first_chunk, num_tokens)

    def _first_chunk(self, num_tokens: int) -> None:
        if self._transport is None:
            return
        self.write(_head("text/event-stream; charset=utf-8", b"Transfer-Encoding: chunked"))
        self._engine.streams[self] = num_tokens
        self._engine.advance(self)


def content_length(head: bytes) -> int:
    """Bytes of body that follow this request head.

    >>> content_length(b"POST / HTTP/1.1\\r\\ncontent-length: 12\\r\\nHost: a")
    12
    """
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def event(document: object) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def frame(data: bytes) -> bytes:
    """One chunk of a chunked body.

    >>> frame(b"abc")
    b'3\\r\\nabc\\r\\n'
    """
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(content_type: str, framing: bytes) -> bytes:
    return b"\r\n".join(
        [b"HTTP/1.1 200 OK", b"Content-Type: " + content_type.encode(), framing, b"", b""]
    )


async def _serve(port: int, engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Connection(engine), "127.0.0.1", port, backlog=4096)
    ticking = asyncio.create_task(engine.tick_forever())
    await stop.wait()
    ticking.cancel()
    server.close()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description="An engine with exactly known timing.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="sim")
    parser.add_argument("--ttft-s", type=float, default=0.02)
    parser.add_argument("--interval-s", type=float, default=0.05)
    options = parser.parse_args()
    engine = Engine(options.model, Timing(options.ttft_s, options.interval_s))
    uvloop.run(_serve(options.port, engine))


if __name__ == "__main__":
    main()
