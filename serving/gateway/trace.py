"""What is kept of one request while it is served, and the records made of it at the end.

Ids, sizes and times only: never a prompt, completion, key or token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.core.types import NOBODY, TenantId
from serving.gateway.exchange import Exchange
from serving.gateway.metrics import RequestOutcome

_CLIENT_CLOSED = 499
"""nginx's status for a client that left before its answer began; only logged, never sent."""


@dataclass(slots=True)
class Trace:
    """What the exchange itself does not know; filled in as the request goes on."""

    started_at: float
    key_id: str | None = None
    tenant: TenantId = NOBODY
    model: str | None = None
    replica: str | None = None
    code: str | None = None
    queued_s: float = 0.0
    num_retries: int = 0
    num_resumes: int = 0
    reading_s: float = 0.0
    picking_s: float = 0.0
    is_explained: bool = False
    """Whether its client wants to know how it was routed."""

    def to_outcome(self, exchange: Exchange, *, duration_s: float) -> RequestOutcome:
        """What the metrics count of the finished request."""
        return RequestOutcome(
            model=self.model,
            status=exchange.status or _CLIENT_CLOSED,
            code=self.code,
            duration_s=duration_s,
            ttft_s=exchange.first_byte_s,
            queued_s=self.queued_s,
            num_retries=self.num_retries,
            num_resumes=self.num_resumes,
            reading_s=self.reading_s,
            picking_s=self.picking_s,
            bytes_sent=exchange.bytes_sent,
        )

    def to_access_record(self, exchange: Exchange, *, duration_s: float) -> dict[str, Any]:
        """What the access log says of the finished request."""
        return {
            "request_id": exchange.request_id,
            "method": exchange.method,
            "path": exchange.path[:128],
            "status": exchange.status or _CLIENT_CLOSED,
            "code": self.code,
            "key_id": self.key_id,
            "model": self.model,
            "replica": self.replica,
            "resumes": self.num_resumes,
            "bytes_sent": exchange.bytes_sent,
            "duration_ms": round(duration_s * 1000, 1),
        }
