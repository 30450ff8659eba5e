"""The open loop: requests go out when they are due, whatever became of those before."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import msgspec

from loadtest.generator.agenda import Agenda
from loadtest.generator.connection import Connections
from loadtest.generator.exchange import Exchange, Planned
from loadtest.generator.target import Composer
from loadtest.generator.wire import Message
from loadtest.records import Record
from loadtest.workload.request import Session, Turn

_TICK_S = 0.02
_TICKS_PER_SWEEP = 12

PromptText = Callable[[Turn], bytes]
"""The prompt of a turn, as the inside of a JSON string."""


@dataclass(slots=True)
class _Talk:
    """A session and how far it is."""

    session: Session
    composer: Composer
    messages: list[Message] = field(default_factory=list)
    num_begun: int = 0

    @property
    def next_turn(self) -> Turn | None:
        """What comes after the turn that has begun last."""
        turns = self.session.turns
        return turns[self.num_begun] if self.num_begun < len(turns) else None


@dataclass(slots=True)
class Limits:
    """`timeout_s` bounds one request. No turn begins `duration_s` after the beginning of the run or
    later; `None` lets every session come to its end."""

    timeout_s: float
    duration_s: float | None = None


class Sender:
    """Sends sessions and gathers records, which their owner takes from time to time.

    A session ends with a turn that failed: what would come next depends on its answer.
    `loop_lags_s` holds how late the event loop did what was due, every `_TICK_S`.
    """

    def __init__(
        self,
        sessions: Iterator[Session],
        composers: Mapping[str, Composer],
        connections: Connections,
        *,
        prompt: PromptText,
        limits: Limits,
    ) -> None:
        self._sessions = sessions
        self._composers = composers
        self._connections = connections
        self._prompt = prompt
        self._limits = limits
        self._agenda = Agenda(self._fail)
        self._begun = 0.0
        self._in_flight: dict[Exchange, None] = {}
        self._num_open = 1  # sessions that are not over, and one for those that are to come
        self._records: list[Record] = []
        self._done = asyncio.get_running_loop().create_future()
        self.loop_lags_s = array("f")
        self.num_sent = 0

    @property
    def num_in_flight(self) -> int:
        """Requests that wait for the end of their answer."""
        return len(self._in_flight)

    def take_records(self) -> list[Record]:
        """The requests that have ended since this was last asked."""
        taken, self._records = self._records, []
        return taken

    async def run(self, begun: float) -> None:
        """Send everything; returns when all answers have ended.

        What goes wrong in here, rather than at the server, ends the run and is raised as it is.

        Args:
            begun: when the run begins, by `time.perf_counter`.
        """
        self._begun = begun
        self._plan_next()
        self._tick(time.perf_counter())
        try:
            await self._done
        finally:
            self._agenda.close()
            for exchange in tuple(self._in_flight):
                exchange.give_up("interrupted")
            self._connections.close()

    def stop(self) -> None:
        """Send no more and leave what runs, which then has no record."""
        if not self._done.done():
            self._done.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def _plan_next(self) -> None:
        """Write the next session's first request, so that only sending is left when it is due."""
        session = next(self._sessions, None)
        if session is None:
            self._close_one()
            return
        self._num_open += 1
        talk = _Talk(session, self._composers[session.traffic])
        due = self._begun + session.at_s
        exchange = self._write(talk, session.turns[0], due)
        self._agenda.at(due, partial(self._begin, exchange, session.cancel_after_s))

    def _begin(self, exchange: Exchange, cancel_after_s: float | None) -> None:
        self._send(exchange, cancel_after_s)
        self._plan_next()

    def _write(self, talk: _Talk, turn: Turn, due: float) -> Exchange:
        talk.messages.append(Message("user", b'"%b"' % self._prompt(turn)))
        composer, session = talk.composer, talk.session
        planned = Planned(
            session=session.index,
            turn=talk.num_begun,
            traffic=session.traffic,
            model=composer.wording.model,
            wire=composer.wire,
            is_stream=composer.wording.is_stream,
            due=due,
            request=composer.request(talk.messages, turn.output_tokens),
            output_tokens=turn.output_tokens,
            ignore_eos=composer.wording.ignores_eos and composer.wire.knows_ignore_eos,
            keeps_text=talk.num_begun + 1 < len(session.turns),
        )
        talk.num_begun += 1
        return Exchange(planned, self._connections, partial(self._ended, talk))

    def _send(self, exchange: Exchange, cancel_after_s: float | None) -> None:
        self._in_flight[exchange] = None
        self.num_sent += 1
        exchange.send()
        if cancel_after_s is not None:
            self._agenda.at(exchange.sent + cancel_after_s, partial(exchange.give_up, None))

    def _ended(self, talk: _Talk, exchange: Exchange) -> None:
        try:
            self._go_on(talk, exchange)
        except Exception as error:
            self._fail(error)  # whoever calls this counts it as one lost answer

    def _go_on(self, talk: _Talk, exchange: Exchange) -> None:
        del self._in_flight[exchange]
        record = exchange.record
        if record is None or self._done.done():
            return
        record.due_s -= self._begun
        self._records.append(record)
        turn = talk.next_turn
        if turn is None or record.error is not None or record.cancelled:
            self._close_one()
            return
        due = time.perf_counter() + turn.think_s
        duration_s = self._limits.duration_s
        if duration_s is not None and due - self._begun >= duration_s:
            self._close_one()
            return
        talk.messages.append(Message("assistant", msgspec.json.encode(exchange.text)))
        following = self._write(talk, turn, due)
        self._agenda.at(due, partial(self._send, following, talk.session.cancel_after_s))

    def _close_one(self) -> None:
        self._num_open -= 1
        if self._num_open == 0:
            self.stop()

    def _tick(self, due: float) -> None:
        now = time.perf_counter()
        self.loop_lags_s.append(now - due)
        if len(self.loop_lags_s) % _TICKS_PER_SWEEP == 0:
            self._give_up_late(now)
        following = max(due + _TICK_S, now)
        self._agenda.at(following, partial(self._tick, following))

    def _give_up_late(self, now: float) -> None:
        """Requests are in flight in the order they were sent."""
        for exchange in tuple(self._in_flight):
            if now - exchange.sent < self._limits.timeout_s:
                return
            exchange.give_up("timeout")
