"""Server-sent events out of a byte stream that may be cut anywhere."""

from __future__ import annotations

MAX_EVENT_BYTES = 4 * 1024 * 1024


class EventTooLongError(Exception):
    """An event has no end within `MAX_EVENT_BYTES`."""


class EventSplitter:
    """Finds the data of each event; comments and other fields are left out.

    Source: WHATWG HTML, section 9.2.6 (interpreting an event stream), without lone carriage
    returns, which no server here sends.

    >>> splitter = EventSplitter()
    >>> [splitter.feed(p) for p in (b"data: {}\\r\\n", b"\\r\\ndata:a", b"\\ndata: b\\n\\n")]
    [[], [b'{}'], [b'a\\nb']]
    """

    __slots__ = ("_held", "_rest")

    def __init__(self) -> None:
        self._held = b""  # a carriage return whose line feed may come with the next part
        self._rest = bytearray()

    def feed(self, part: bytes) -> list[bytes]:
        """The data of the events that end within this part.

        Raises:
            EventTooLongError: what has come since the last event is too long.
        """
        if self._held or b"\r" in part:
            part = self._with_line_feeds(part)
        rest = self._rest
        if rest:
            num_searched = len(rest) - 1
            rest += part
            if rest.find(b"\n\n", num_searched) < 0:
                part = b""
            else:
                part = bytes(rest)
                rest.clear()
        *events, tail = part.split(b"\n\n")
        if tail:
            rest += tail
        if len(rest) > MAX_EVENT_BYTES:
            raise EventTooLongError
        return [data for event in events if (data := _data(event)) is not None]

    def _with_line_feeds(self, part: bytes) -> bytes:
        part = self._held + part
        self._held = b"\r" if part.endswith(b"\r") else b""
        return part.removesuffix(b"\r").replace(b"\r\n", b"\n")


def _data(event: bytes) -> bytes | None:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(line.removeprefix(b" ") for line in lines) if lines else None
