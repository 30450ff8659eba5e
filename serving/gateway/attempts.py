"""One request's way from replica to replica, until one has answered it to the end."""

from __future__ import annotations

from time import monotonic

from serving.core.types import ReplicaEndpoint, ReplicaId
from serving.errors import EngineError, Overloaded, RequestError
from serving.gateway.exchange import Exchange, unless_gone
from serving.gateway.explain import explanation_header
from serving.gateway.fleet import Ticket
from serving.gateway.relay import AnswerBrokenError, Asked, Relay, ReplicaUnavailableError
from serving.gateway.trace import Trace
from serving.protocol.journal import JournalReader
from serving.protocol.request_bounds import asks_for_grammar

MAX_ATTEMPTS = 3
"""Replicas tried for one request before its first byte; each failure excludes that replica."""

MAX_LOST = 1
"""Replicas that may vanish while they hold one request: a request that kills engines must not be
handed from one to the next."""

MAX_RESUMES = 3
"""Times a stream may be continued elsewhere, which bounds what a request that kills engines costs
in the middle of its answer."""


class Attempts:
    """Tries replicas for one request, and lets another one continue a stream that breaks.

    Args:
        relay: moves the bytes.
        ticket: the request's claim to a replica.
        exchange: with the client.
        trace: is told of replicas, retries and the time in the queue.
        journal: of the answer, if it may be continued.
    """

    def __init__(
        self,
        relay: Relay,
        ticket: Ticket,
        exchange: Exchange,
        trace: Trace,
        journal: JournalReader | None,
    ) -> None:
        self._relay = relay
        self._ticket = ticket
        self._exchange = exchange
        self._trace = trace
        self._journal = journal
        self._num_lost = 0
        self._num_failed = 0

    async def run(self, asked: Asked) -> None:
        """Return once the answer is complete.

        Raises:
            RequestError: the engine cannot answer within its schema or grammar.
            EngineError: enough replicas were tried, or lost while they held the request, or no
                other one could go on with its answer.
            Overloaded: there is none, or all are at their limit and the queue is too long.
            ClientGoneError: the client left.
        """
        broken_by: EngineError | None = None
        while True:
            try:
                replica = await self._next_replica()
            except Overloaded:
                if broken_by is None:
                    raise
                raise broken_by from None  # what ended the answer, not what could not mend it
            try:
                await self._relay.forward(self._exchange, replica.url, asked, journal=self._journal)
            except ReplicaUnavailableError as error:
                self._refused(error)
            except AnswerBrokenError as error:
                broken_by = error.cause
                self._lost(error)
            except EngineError as error:
                if error.code == "generation_failed" and asks_for_grammar(asked.body):
                    raise _grammar_failed() from error
                self._ticket.fail()
                raise
            else:
                return

    async def _next_replica(self) -> ReplicaEndpoint:
        """The replica that the request now holds, after its wait in the queue if it has to."""
        begun = monotonic()
        replica = self._ticket.take()
        self._trace.picking_s = monotonic() - begun
        if replica is None:
            try:
                replica = await unless_gone(self._exchange, self._ticket.wait())
            finally:  # also of those who wait in vain
                self._trace.queued_s += monotonic() - begun
        self._note(replica.id)
        return replica

    def _note(self, replica: ReplicaId) -> None:
        self._trace.replica = replica
        if self._ticket.decision is not None:
            header = explanation_header(self._ticket.decision, self._ticket.request)
            self._exchange.extra_headers = [header]

    def _refused(self, error: ReplicaUnavailableError) -> None:
        """The replica did not take the request; whether to try another one."""
        if error.is_fault:
            self._ticket.fail()
        self._ticket.give_back(is_full=error.is_full)
        self._trace.num_retries += 1
        if self._exchange.started:
            return  # until no replica is left: the client has a part of the answer
        self._num_lost += error.may_have_run
        self._num_failed += not error.is_full
        is_enough = self._num_lost > MAX_LOST or self._num_failed >= MAX_ATTEMPTS
        if is_enough or self._ticket.is_late:
            raise EngineError(
                "No replica could take this request", code="engine_unavailable", retryable=True
            ) from error

    def _lost(self, error: AnswerBrokenError) -> None:
        """The replica was lost in the middle of the answer; whether another one may go on."""
        self._ticket.lose()
        self._trace.num_resumes += 1
        # One of which nothing came may be a request that kills engines.
        self._num_lost += not (self._journal and self._journal.records)
        if self._num_lost > MAX_LOST or self._trace.num_resumes > MAX_RESUMES:
            raise error.cause from error


def _grammar_failed() -> RequestError:
    """To repeat such a request would be useless, which is what a client fault says."""
    return RequestError(
        "The engine cannot answer within the schema or grammar of this request: it has no finite "
        "answer, or uses what the engine does not support; simplify it",
        code="grammar_failed",
    )
