"""One request, from when it is due until its record."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from loadtest.generator.connection import TRUNCATED, Connection, Connections, Headers
from loadtest.generator.events import EventSplitter, EventTooLongError
from loadtest.generator.wire import Part, UnreadableError, Usage, Wire
from loadtest.records import Record

_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_REQUEST_IDS = (b"x-request-id", b"request-id")


@dataclass(frozen=True, slots=True)
class Planned:
    """A request with its bytes. `due` is a time of `time.perf_counter`; `ignore_eos`: the answer is
    to have exactly `output_tokens`; `keeps_text`: its text is needed for the next turn."""

    session: int
    turn: int
    traffic: str
    model: str
    wire: Wire
    is_stream: bool
    due: float
    request: bytes
    output_tokens: int
    ignore_eos: bool
    keeps_text: bool = False


class Exchange:
    """Sends one request when told to and hands itself over, with its record made, at the end.

    A kept connection that ends before any byte of the answer was most likely being closed by the
    server just then; the request goes out once more on a fresh one, as clients do. What that costs
    stands in the figures.

    Source: RFC 9112, section 9.3.1 (a kept connection may be closed at any time).
    """

    __slots__ = (
        "_connection", "_connections", "_events", "_gaps", "_has_event", "_headers", "_is_repeated",
        "_last_token", "_on_end", "_part", "_received", "_sent", "_status", "_text", "_ttft_s",
        "planned", "record",
    )  # fmt: skip

    def __init__(
        self, planned: Planned, connections: Connections, on_end: Callable[[Exchange], None]
    ) -> None:
        self.planned = planned
        self.record: Record | None = None
        self._connections = connections
        self._on_end = on_end
        self._connection: Connection | None = None
        self._events = EventSplitter() if planned.is_stream else None
        self._gaps = array("f")
        self._has_event = False
        self._headers: Headers = []
        self._is_repeated = False
        self._last_token = 0.0
        self._part = Part(usage=Usage())
        self._received = bytearray()
        self._sent = 0.0
        self._status = 0
        self._text: list[str] = []
        self._ttft_s: float | None = None

    @property
    def sent(self) -> float:
        """When it was sent, by `time.perf_counter`."""
        return self._sent

    @property
    def text(self) -> str:
        """What the answer said, if the plan keeps it."""
        return "".join(self._text)

    def send(self) -> None:
        """Send the request."""
        self._sent = time.perf_counter()
        self._connections.ask(self.planned.request, self)

    def give_up(self, error: str | None) -> None:
        """Leave before the answer's end: because of an error, or as the workload has it.

        An error that the stream has carried by then is what became of the request all the same.
        """
        if self.record is None:
            if self._connection is not None:
                self._connection.close()
            error = self._part.error or error
            self._end(time.perf_counter(), error, cancelled=error is None)

    # --- what the connection calls ----------------------------------------------------------------

    def connected(self, connection: Connection) -> bool:
        self._connection = connection
        return self.record is None

    def heard_head(self, status: int, headers: Headers) -> None:
        self._status = status
        self._headers = headers

    def heard_body(self, part: bytes, now: float) -> None:
        if self._events is None or self._status != 200:
            self._received += part
            if len(self._received) > _MAX_ANSWER_BYTES:
                self.give_up("answer_too_long")
            return
        try:
            for event in self._events.feed(part):
                self._has_event = True
                self._take(self.planned.wire.read_event(event), now)
        except UnreadableError:
            self.give_up("bad_answer")
        except EventTooLongError:
            self.give_up("answer_too_long")

    def heard_end(self, now: float) -> None:
        if self.record is not None:
            return
        if self._status != 200:
            self._end(now, self._refusal())
        elif self._events is None:
            self._read_whole(now)
        else:
            self._end(now, self._part.error or self._why_not_whole())

    def lost(self, reason: str, now: float) -> None:
        connection = self._connection
        is_stale = connection is not None and connection.is_kept and not connection.has_heard
        if self.record is not None:
            return
        if is_stale and not self._is_repeated:
            self._is_repeated = True
            self._connection = None
            self._connections.ask_afresh(self.planned.request, self)
            return
        self._end(now, self._part.error or self._why_lost(reason))

    # --- inside -----------------------------------------------------------------------------------

    def _take(self, part: Part, now: float) -> None:
        if part.has_tokens:
            if self._ttft_s is None:
                self._ttft_s = now - self.planned.due
            else:
                self._gaps.append(now - self._last_token)
            self._last_token = now
            if self.planned.keeps_text:
                self._text.append(part.text)
        if part.usage or part.error or part.is_last:
            self._note(part)

    def _note(self, part: Part) -> None:
        """Keep what is known of the answer as a whole."""
        known = self._part
        usage = known.usage.updated(part.usage) if known.usage and part.usage else known.usage
        self._part = Part(
            usage=usage, error=known.error or part.error, is_last=known.is_last or part.is_last
        )

    def _read_whole(self, now: float) -> None:
        try:
            part = self.planned.wire.read_whole(bytes(self._received))
        except UnreadableError:
            self._end(now, "bad_answer")
            return
        if self.planned.keeps_text:
            self._text.append(part.text)
        self._note(part)
        self._end(now, part.error or self._why_empty(has_tokens=part.has_tokens))

    def _why_not_whole(self) -> str | None:
        """What a stream lacks at its end, if anything."""
        if self._part.is_last:
            return self._why_empty(has_tokens=self._ttft_s is not None)
        return TRUNCATED if self._has_event else "bad_answer"

    def _why_lost(self, reason: str) -> str | None:
        """What a connection that ended takes from the answer, if anything.

        Behind a stream's own end mark nothing but HTTP's is missing. Whoever asked has the whole
        answer by then, and OpenAI's SDK hands it out; vLLM's benchmark counts a failure, because
        aiohttp raises.

        Source: openai/_streaming_cleanup.py, openai-python 3.54 (`drain_response_async`).
        """
        if reason == TRUNCATED and self._part.is_last:
            return self._why_not_whole()
        return reason

    def _why_empty(self, *, has_tokens: bool) -> str | None:
        """Tokens that say nothing, such as the one that ends an answer, show in the usage alone."""
        usage = self._part.usage
        is_empty = not has_tokens and (usage is None or not usage.output_tokens)
        return "empty_answer" if is_empty else None

    def _refusal(self) -> str:
        return self.planned.wire.refusal(bytes(self._received[:_MAX_ERROR_BYTES]), self._status)

    def _end(self, now: float, error: str | None, *, cancelled: bool = False) -> None:
        planned, usage = self.planned, (self._part.usage or Usage()).believed()
        self.record = Record(
            session=planned.session,
            turn=planned.turn,
            traffic=planned.traffic,
            model=planned.model,
            is_stream=planned.is_stream,
            due_s=planned.due,
            send_lag_s=self._sent - planned.due,
            planned_output_tokens=planned.output_tokens,
            ignore_eos=planned.ignore_eos,
            ttft_s=self._ttft_s,
            latency_s=now - planned.due,
            itl_s=self._gaps.tobytes(),
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            status=self._status,
            error=error,
            retry_after_s=_seconds(self._header(b"retry-after")),
            request_id=_text(next(filter(None, map(self._header, _REQUEST_IDS)), None)),
            cancelled=cancelled,
        )
        self._on_end(self)

    def _header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self._headers if key == name), None)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")[:128]


def _seconds(value: bytes | None) -> float | None:
    """Seconds of a Retry-After; `None` for a date, which nobody here sends.

    >>> _seconds(b"2"), _seconds(b"Mon, 23 Nov 2026 05:00:00 GMT")
    (2.0, None)
    """
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
