"""The gateway as an ASGI application: the walk of a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from serving.core.types import ModelId, Principal, TenantId
from serving.core.wire import EXPLAIN, SESSION_ID
from serving.errors import EngineError, RequestError, ServingError
from serving.gateway.attempts import Attempts
from serving.gateway.catalog import Catalog
from serving.gateway.edge import HANDLED
from serving.gateway.error_table import body_of, headers_of, status_of
from serving.gateway.exchange import ClientGoneError, Exchange, Headers
from serving.gateway.explain import check_may_explain, explanation, read_question
from serving.gateway.fleet import Fleet
from serving.gateway.frames import forget_frames
from serving.gateway.guards import (
    check_head_size,
    check_internal_token,
    check_media_type,
    check_metrics_token,
    check_room,
)
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.profiles import Inquiry, Profiler
from serving.gateway.prompt_reader import Scope as PromptScope
from serving.gateway.relay import Asked, Relay
from serving.gateway.routes import MODEL_PREFIX, Access, Action, Route, find_route
from serving.gateway.slo import SloCounts
from serving.gateway.trace import Trace
from serving.protocol.envelope import Envelope, read_envelope, with_cache_salt
from serving.protocol.journal import RESUMED_PATHS, JournalReader
from serving.protocol.request_bounds import check_bounds
from serving.rendering.reading import has_prompt
from serving.routing.routed_prefixes import pack_header
from serving.routing.snapshots import RequestProfile
from serving.settings.gateway import GatewaySettings, LimitSettings
from serving.tenancy.cache_salt import CacheSalts
from serving.tenancy.shared_bytes import Lease, SharedBytes

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

logger = logging.getLogger("galerne.gateway")

_LARGE_BODY_BYTES = 256 * 1024
"""Reading the envelope of less takes 15 ms at the very most."""
_large_body_readers = ThreadPoolExecutor(2, thread_name_prefix="large-body")
"""So few that what reading takes for a moment, four times a text with an emoji, is bounded too."""


@dataclass(frozen=True, slots=True)
class GatewayParts:
    """What a gateway is made of; constructed in `serving.app`.

    `authenticate` takes request headers and returns the caller, or raises AccessError.
    `fleet_state` gives what `galerne status` shows, `metric_targets` what Prometheus shall scrape.
    `has_room` says whether the process can take another request in, `bodies` how many bytes of it.
    `access_log` gets one record per request.
    """

    settings: GatewaySettings
    catalog: Catalog
    fleet: Fleet
    profilers: Mapping[ModelId, Profiler]
    cache_salts: CacheSalts
    relay: Relay
    authenticate: Callable[[Headers], Principal]
    internal_token: str
    fleet_state: Callable[[], Awaitable[dict[str, Any]]]
    metrics_token: str
    metric_targets: Callable[[], Awaitable[list[dict[str, Any]]]]
    has_room: Callable[[], bool]
    bodies: SharedBytes
    access_log: Callable[[Mapping[str, Any]], None]
    metrics: GatewayMetrics
    slos: Mapping[ModelId, SloCounts]


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A request that has been understood."""

    model: ModelId
    asked: Asked
    profile: RequestProfile
    is_stream: bool


class Gateway:
    """Authenticate → admit → pick → relay."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        self._is_draining = False
        self._num_running = 0
        self.background: list[object] = []
        """Tasks and listeners that live as long as the gateway: the event loop holds tasks only
        weakly."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _accept_lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        scope.get(HANDLED, []).append(True)
        exchange = Exchange(scope, receive, send)
        trace = Trace(started_at=monotonic())
        try:
            await self._answer(exchange, trace)
        finally:
            self._log(exchange, trace)

    def drain(self) -> int:
        """Refuse new requests to models from now on; how many are under way."""
        self._is_draining = True
        return self._num_running

    async def _answer(self, exchange: Exchange, trace: Trace) -> None:
        """Serve the request; every failure becomes an answer, or the end of the connection."""
        route = find_route(exchange.path)
        failure: ServingError | None = None
        try:
            await self._serve(exchange, route, trace)
        except ClientGoneError:
            trace.code = "client_gone"
        except ServingError as error:
            failure = error
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            failure = EngineError("The gateway failed on this request", code="internal_error")
        if failure is not None:  # no longer handled, or the interpreter would keep its frames
            trace.code = failure.code
            forget_frames(failure)
            await self._tell(exchange, failure, route)

    async def _tell(self, exchange: Exchange, error: ServingError, route: Route | None) -> None:
        """Answer with an error, or end an answer that has begun with it."""
        if exchange.started:
            with contextlib.suppress(ClientGoneError):
                await self._parts.relay.fail_midway(exchange, error)
            return
        headers = headers_of(error)
        if error.code == "method_not_allowed" and route is not None:
            headers.append((b"allow", ", ".join(route.methods).encode()))
        body = body_of(error, anthropic=exchange.anthropic)
        await exchange.respond(status_of(error), body, *headers)

    async def _serve(self, exchange: Exchange, route: Route | None, trace: Trace) -> None:
        parts = self._parts
        check_head_size(exchange, limit_bytes=parts.settings.limits.max_header_bytes)
        if route is None or route.access is Access.API_KEY:
            principal = parts.authenticate(exchange.headers)
            trace.key_id, trace.tenant = principal.key_id, principal.tenant
            if exchange.header(EXPLAIN) is not None:
                check_may_explain(principal)
                trace.is_explained = True
        elif route.access is Access.INTERNAL:
            check_internal_token(exchange, token=parts.internal_token)
        elif route.access is Access.METRICS:
            check_metrics_token(exchange, token=parts.metrics_token)
        if route is None:
            raise RequestError(
                f"Nothing is served at {exchange.path[:128]}", code="unknown_path", param=None
            )
        if exchange.method not in route.methods:
            raise RequestError(
                f"{exchange.path[:128]} takes {route.method}", code="method_not_allowed"
            )
        await self._act(exchange, route, trace)

    async def _act(self, exchange: Exchange, route: Route, trace: Trace) -> None:
        catalog = self._parts.catalog
        match route.action:
            case Action.RELAY:
                check_room(is_draining=self._is_draining, has_room=self._parts.has_room)
                self._num_running += 1
                try:
                    with self._parts.bodies.lease(trace.tenant) as lease:
                        await self._relay(exchange, trace, lease)
                finally:
                    self._num_running -= 1
            case Action.LIST_MODELS:
                await exchange.respond(200, catalog.list(for_anthropic=exchange.anthropic))
            case Action.SHOW_MODEL:
                name = exchange.path[len(MODEL_PREFIX) :]
                await exchange.respond(200, catalog.show(name, for_anthropic=exchange.anthropic))
            case Action.OPENAPI:
                await exchange.respond(200, await catalog.openapi())
            case Action.HEALTH:
                await exchange.respond(200, {"status": "ok"})
            case Action.FLEET:
                await exchange.respond(200, await self._parts.fleet_state())
            case Action.EXPLAIN:
                with self._parts.bodies.lease(trace.tenant) as lease:
                    await self._explain(exchange, lease)
            case Action.METRIC_TARGETS:
                await exchange.respond(200, await self._parts.metric_targets())

    async def _relay(self, exchange: Exchange, trace: Trace, lease: Lease) -> None:
        check_media_type(exchange)
        body = await exchange.read_body(self._parts.settings.limits, lease)
        session = (exchange.header(SESSION_ID) or b"").decode("latin-1")
        begun = monotonic()
        admitted = await self._admit(body, exchange.path, tenant=trace.tenant, session=session)
        del body  # `admitted` has a copy with a salt, which is kept as long as the answer takes
        trace.reading_s = monotonic() - begun
        trace.model = admitted.model
        self._parts.metrics.arrived(admitted.model, trace.tenant)
        if admitted.is_stream:
            exchange.slo = self._parts.slos[admitted.model]
        with self._parts.fleet.ticket(
            admitted.model,
            admitted.profile,
            tenant=trace.tenant,
            patience_s=exchange.patience_s,
            is_repeat=exchange.is_repeat,
        ) as ticket:
            ticket.is_explained = trace.is_explained
            exchange.on_first_byte = ticket.answered
            journal = self._journal_for(admitted, exchange.path)
            attempts = Attempts(self._parts.relay, ticket, exchange, trace, journal)
            await attempts.run(admitted.asked)

    async def _admit(
        self, body: bytes, path: str, *, tenant: TenantId, session: str, is_asked: bool = False
    ) -> _Admitted:
        """Which model a request is for, the body that goes to it, and what speaks for whom.

        Raises:
            RequestError: the body is none, names no model, or asks an engine for too much.
        """
        parts = self._parts
        envelope = await _envelope_of(body, path, parts.settings.limits)
        model = parts.catalog.resolve(envelope.model)
        salt = None
        if has_prompt(path):
            salt = parts.cache_salts.of(tenant, envelope.cache_salt)
            body = with_cache_salt(body, salt)
        scope = PromptScope(None if envelope.model == model else envelope.model, salt)
        inquiry = Inquiry(path, body, scope, session or envelope.session)
        profile = await parts.profilers[model].profile(inquiry, is_asked=is_asked)
        routed = pack_header(profile.part_names) if profile.part_names else b""
        return _Admitted(model, Asked(body, tenant, routed), profile, envelope.stream is True)

    async def _explain(self, exchange: Exchange, lease: Lease) -> None:
        question = read_question(await exchange.read_body(self._parts.settings.limits, lease))
        admitted = await self._admit(
            bytes(question.request),
            question.path,
            tenant=TenantId(question.tenant),
            session="",
            is_asked=True,
        )
        decision = self._parts.fleet.decide(admitted.model, admitted.profile)
        await exchange.respond(200, explanation(decision, admitted.profile))

    def _journal_for(self, admitted: _Admitted, path: str) -> JournalReader | None:
        """Where the answer is kept until its end, if another replica could go on with it."""
        max_bytes = self._parts.settings.limits.max_journal_bytes
        if max_bytes and admitted.is_stream and path in RESUMED_PATHS:
            return JournalReader(max_bytes=max_bytes)
        return None

    def _log(self, exchange: Exchange, trace: Trace) -> None:
        duration_s = monotonic() - trace.started_at
        self._parts.metrics.record(trace.to_outcome(exchange, duration_s=duration_s))
        exchange.count_missing_answer(waited_s=duration_s, is_gone=trace.code == "client_gone")
        self._parts.access_log(trace.to_access_record(exchange, duration_s=duration_s))


async def _envelope_of(body: bytes, path: str, limits: LimitSettings) -> Envelope:
    """The envelope of a body within bounds, read beside the event loop where a hostile body could
    hold it up."""
    if len(body) <= _LARGE_BODY_BYTES:
        return _read_bounded(body, path, limits)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_large_body_readers, _read_bounded, body, path, limits)


def _read_bounded(body: bytes, path: str, limits: LimitSettings) -> Envelope:
    envelope = read_envelope(body, max_depth=limits.max_json_depth)
    check_bounds(path, body, limits)
    return envelope


async def _accept_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
