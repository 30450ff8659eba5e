"""How many requests the gateways and engines of one machine hold, by their own metrics."""

from __future__ import annotations

from collections.abc import Iterable

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from serving.core.wire import METRIC_TARGETS_PATH

IN_FLIGHT = frozenset({"galerne_gateway_in_flight_requests", "galerne_engine_in_flight_requests"})
_TIMEOUT = aiohttp.ClientTimeout(total=5, connect=2)


async def requests_held(endpoint: str, host: str, *, metrics_token: str) -> int | None:
    """Requests in the gateways and engines that listen on `host`; one that passes both counts
    twice. `None` while no gateway says where they are; a process that does not answer holds none.

    Args:
        endpoint: any of the platform's, without `/v1`.
        host: the machine's address.
    """
    headers = {"authorization": f"Bearer {metrics_token}"}
    async with aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT) as session:
        try:
            async with session.get(endpoint + METRIC_TARGETS_PATH) as answer:
                if answer.status != 200:
                    return None
                groups = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return None
        addresses = [address for group in groups for address in group["targets"]]
        local = [address for address in addresses if address.rpartition(":")[0].strip("[]") == host]
        return sum([await _held(session, address) for address in local])


async def _held(session: aiohttp.ClientSession, address: str) -> int:
    try:
        async with session.get(f"http://{address}/metrics") as answer:
            return in_flight(await answer.text()) if answer.status == 200 else 0
    except (aiohttp.ClientError, TimeoutError):
        return 0


def in_flight(page: str) -> int:
    """The requests that a process holds, from its metrics page.

    >>> in_flight('galerne_engine_in_flight_requests{model="a"} 3.0\\nother 7.0\\n')
    3
    """
    lines: Iterable[str] = page.splitlines(keepends=True)
    wanted = "".join(line for line in lines if line.startswith(tuple(IN_FLIGHT)))
    families = text_string_to_metric_families(wanted)
    return int(sum(sample.value for family in families for sample in family.samples))
