"""When the tokens of one streamed chat completion came, for a client that reads line by line."""

from __future__ import annotations

from loadtest.generator.openai_chat import CHAT
from loadtest.generator.wire import UnreadableError


class StreamTimes:
    """Fed with the lines of a stream as they arrive; all it keeps is in seconds.

    Tokens are what `galerne load run` takes for tokens: parts of the answer with text, reasoning or
    calls of tools. The part that only names the role is none.

    >>> times = StreamTimes(begun=10.0)
    >>> times.take(b'data: {"choices": [{"delta": {"content": "a"}}]}', now=10.5)
    >>> times.take(b'data: {"choices": [{"delta": {"content": "b"}}]}', now=10.75)
    >>> times.ttft_s, times.gaps_s
    (0.5, [0.25])
    """

    def __init__(self, *, begun: float) -> None:
        self.ttft_s: float | None = None
        self.gaps_s: list[float] = []
        self.output_tokens: int | None = None
        self._error: str | None = None
        self._is_whole = False
        self._last = begun

    def take(self, line: bytes, now: float) -> None:
        """Note what a line brought at this moment of the clock that `begun` is of."""
        if not line.startswith(b"data:") or self._error:
            return
        try:
            part = CHAT.read_event(line[5:].strip())
        except UnreadableError:
            self._error = "bad_answer"
            return
        if part.has_tokens:
            self._note_token(now)
        if part.usage is not None:
            self.output_tokens = part.usage.output_tokens
        self._error = part.error
        self._is_whole = part.is_last

    @property
    def error(self) -> str | None:
        """Why the stream, now at its end, is no whole answer."""
        if self._error or not self._is_whole:
            return self._error or "truncated"
        is_empty = self.ttft_s is None and not self.output_tokens
        return "empty_answer" if is_empty else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; `None` for one token, or none counted.

        Source: loadtest/verdict/measures.py, the same formula.
        """
        further_tokens = (self.output_tokens or 0) - 1
        return sum(self.gaps_s) / further_tokens if further_tokens > 0 else None

    def _note_token(self, now: float) -> None:
        if self.ttft_s is None:
            self.ttft_s = now - self._last
        else:
            self.gaps_s.append(now - self._last)
        self._last = now
