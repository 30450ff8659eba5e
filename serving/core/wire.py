"""Names that Galerne's own processes use between themselves: headers and paths."""

from __future__ import annotations

from enum import StrEnum

INTERNAL_TOKEN = b"x-galerne-token"
"""Proves to an engine's listener that the caller belongs to this cluster."""

REFUSED = b"x-galerne-refused"
"""Set by an engine's listener when it declines a request before the engine has seen it, so that
trying another replica cannot run the request twice. Value: a `Refusal`."""

REQUEST_ID = b"x-request-id"
"""One id per request, in every response and log line."""

SESSION_ID = b"x-session-id"
"""Client header: requests with the same value belong together."""

EXPLAIN = b"x-galerne-explain"
"""Client header, for operators' keys: tell in `ROUTE` why the request went where it went."""

ROUTE = b"x-galerne-route"
"""Response header with that explanation, as JSON."""

JOURNAL = b"x-galerne-journal"
"""In a request: frame a streamed answer and tell what it is made of. In an answer: it is framed,
by a replica of this version, which stands in the request that goes on with it."""

RESUME = b"x-galerne-resume"
"""Bytes before the body that are the journal of an answer another replica began."""

ROUTED = b"x-galerne-routed"
"""In a request: names of the parts of its prompt, so that the replica can tell all gateways what
was routed to it."""

TENANT = b"x-galerne-tenant"
"""In a request to an engine: whom it is accounted to, as `serving.protocol.usage` packs it."""

STATE_PATH = "/galerne/state"
"""Where an engine's listener tells a gateway its state."""

STATE_STREAM_PATH = "/galerne/state-stream"
"""Where a gateway follows an engine replica's state."""

FLEET_PATH = "/galerne/fleet"
"""Where a gateway tells `galerne status` what it sees."""

EXPLAIN_PATH = "/galerne/route"
"""Where a gateway tells `galerne route` how it would route a request."""

METRIC_TARGETS_PATH = "/galerne/metric-targets"
"""Where Prometheus finds what to scrape."""


class Refusal(StrEnum):
    """Why a listener declined a request before the engine saw it."""

    UNAUTHENTICATED = "unauthenticated"
    DRAINING = "draining"
    FULL = "full"
    BAD_JOURNAL = "bad_journal"
