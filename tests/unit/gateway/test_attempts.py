"""Which replicas a request is tried on, when that ends, and with what."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from serving.core.types import ModelId, ReplicaEndpoint, ReplicaId, TenantId
from serving.errors import EngineError, Overloaded, RequestError
from serving.gateway.attempts import MAX_ATTEMPTS, MAX_RESUMES, Attempts
from serving.gateway.exchange import Exchange
from serving.gateway.fleet import Fleet
from serving.gateway.pool_settings import PoolSettings, QueueLimits
from serving.gateway.relay import AnswerBrokenError, Asked, Relay, ReplicaUnavailableError
from serving.gateway.trace import Trace
from serving.protocol.journal import JournalReader
from serving.routing.policies import RoundRobin
from serving.routing.snapshots import RequestProfile

MODEL = ModelId("demo")
FULL = ReplicaUnavailableError(is_full=True)
REFUSED = ReplicaUnavailableError()
UNREACHABLE = ReplicaUnavailableError(is_fault=True)
VANISHED = ReplicaUnavailableError(is_fault=True, may_have_run=True)
CAUSE = EngineError("The engine failed during this answer", code="engine_failed")


class Broken(Exception):
    """Stands in a script for an answer that breaks; `told` if outputs had come."""

    def __init__(self, *, told: bool = True) -> None:
        super().__init__()
        self.told = told


class NobodyToldMe:
    """No replica has told its state."""

    def state(self, replica: ReplicaId) -> None:
        return None

    def silent_s(self, replica: ReplicaId) -> float:
        return 0.0


class ScriptedRelay(Relay):
    """Replicas that fail in this order, and then answer."""

    def __init__(self, *failures: Exception) -> None:
        self.tried: list[str] = []
        self._failures: Iterator[Exception] = iter(failures)

    async def forward(
        self, exchange: Exchange, url: str, asked: Asked, *, journal: JournalReader | None
    ) -> None:
        self.tried.append(url)
        failure = next(self._failures, None)
        if isinstance(failure, Broken):
            assert journal is not None
            if not exchange.started:
                await exchange.start(200, [])
            if failure.told:
                journal.records += b"one"
            raise AnswerBrokenError(CAUSE)
        if failure is not None:
            raise failure


async def attempt(
    *failures: Exception,
    replicas: int = 9,
    journal: bool = True,
    patience_s: float = math.inf,
    body: bytes = b"{}",
    traces: list[Trace] | None = None,
) -> tuple[list[str], Trace]:
    """The replicas that were tried, in this order; the trace is in `traces` if it ends badly."""

    async def receive() -> Any:
        await asyncio.Event().wait()  # the client says nothing more, and stays

    async def send(_message: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    relay, trace = ScriptedRelay(*failures), Trace(started_at=0.0)
    if traces is not None:
        traces.append(trace)
    fleet = Fleet(
        {MODEL: PoolSettings(1, RoundRobin(), 0.0, NobodyToldMe(), QueueLimits(9, 0.0, 0.0))},
        rng=Random(0),
        now=time.monotonic,
    )
    endpoints = [
        ReplicaEndpoint(ReplicaId(name), name, metrics_url="", node_id="n", pid=1, version="v")
        for name in "abcdefghi"[:replicas]
    ]
    fleet.update(MODEL, endpoints)
    reader = JournalReader(max_bytes=1000) if journal else None
    try:
        with fleet.ticket(MODEL, RequestProfile(10, 10), patience_s=patience_s) as ticket:
            exchange = Exchange(scope, receive, send)
            await Attempts(relay, ticket, exchange, trace, reader).run(Asked(body, TenantId("ann")))
    finally:
        assert fleet.num_in_flight(MODEL) == 0
        assert len(set(relay.tried)) == len(relay.tried), "no replica is asked twice"
    return relay.tried, trace


async def test_another_replica_is_tried() -> None:
    tried, trace = await attempt(REFUSED, VANISHED)
    assert len(tried) == 3
    assert (trace.num_retries, trace.num_resumes, trace.replica) == (2, 0, tried[-1])


async def test_replicas_without_room_do_not_count() -> None:
    tried, trace = await attempt(*[FULL] * 5, REFUSED, REFUSED)
    assert len(tried) == 8
    assert trace.num_retries == 7


@pytest.mark.parametrize("failures", [[UNREACHABLE] * MAX_ATTEMPTS, [VANISHED] * 2])
async def test_attempts_are_bounded(failures: list[Exception]) -> None:
    with pytest.raises(EngineError) as caught:
        await attempt(*failures)
    assert (caught.value.code, caught.value.retryable) == ("engine_unavailable", True)


@pytest.mark.parametrize(
    ("failure", "code"), [(FULL, "engine_overloaded"), (REFUSED, "model_not_ready")]
)
async def test_no_replica_is_left(failure: Exception, code: str) -> None:
    with pytest.raises(Overloaded) as caught:
        await attempt(failure, replicas=1)
    assert caught.value.code == code


async def test_who_waits_in_vain_has_waited_all_the_same() -> None:
    traces: list[Trace] = []
    with pytest.raises(Overloaded):
        await attempt(replicas=0, traces=traces)
    assert traces[0].queued_s > 0


async def test_a_broken_answer_is_continued_elsewhere() -> None:
    tried, trace = await attempt(Broken(), REFUSED, VANISHED, REFUSED, REFUSED, Broken())
    assert len(tried) == 7, "what refuses to go on does not end an answer that has begun"
    assert trace.num_resumes == 2


@pytest.mark.parametrize("failures", [[Broken()], [Broken(), REFUSED]])
async def test_the_client_is_told_what_broke_the_answer(failures: list[Exception]) -> None:
    """Not that no other replica could go on with it."""
    with pytest.raises(EngineError) as caught:
        await attempt(*failures, replicas=len(failures))
    assert caught.value is CAUSE


@pytest.mark.parametrize("failures", [[Broken()] * (MAX_RESUMES + 1), [Broken(told=False)] * 2])
async def test_continuations_are_bounded(failures: list[Exception]) -> None:
    with pytest.raises(EngineError) as caught:
        await attempt(*failures)
    assert caught.value is CAUSE


async def test_nothing_is_tried_again_for_a_client_that_waits_no_longer() -> None:
    with pytest.raises(EngineError) as caught:
        await attempt(UNREACHABLE, patience_s=1e-9)
    assert caught.value.code == "engine_unavailable"


GENERATION_FAILED = EngineError("The engine failed", code="generation_failed")


async def test_a_grammar_that_fails_is_the_requests_fault() -> None:
    body = b'{"response_format": {"type": "json_object"}}'
    with pytest.raises(RequestError) as caught:
        await attempt(GENERATION_FAILED, body=body)
    assert caught.value.code == "grammar_failed"
    with pytest.raises(EngineError):
        await attempt(GENERATION_FAILED)
