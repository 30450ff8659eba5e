"""The metrics page opens to its token, and shows what Prometheus can read."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from serving.protocol.metrics_page import MetricsPage

TOKEN = "metrics-token"


async def get(path: str = "/metrics", *, method: str = "GET", token: str = TOKEN) -> Any:
    """Status and body."""
    registry = CollectorRegistry()
    Counter("ships", "Ships seen.", ["port"], registry=registry).labels("brest").inc(3)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    await MetricsPage(registry, token=TOKEN)(scope, None, send)  # type: ignore[arg-type]
    return sent[0]["status"], sent[1]["body"]


async def test_it_shows_the_registry() -> None:
    status, body = await get()
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert [s.value for s in families["ships"].samples if s.name == "ships_total"] == [3.0]


@pytest.mark.parametrize("token", ["", "wrong", "metrics-toke", "metrics-token2", "mé"])
async def test_it_is_closed_without_the_token(token: str) -> None:
    assert await get(token=token) == (401, b"")


@pytest.mark.parametrize(("path", "method"), [("/", "GET"), ("/metrics", "POST")])
async def test_it_serves_nothing_else(path: str, method: str) -> None:
    assert await get(path, method=method) == (404, b"")
