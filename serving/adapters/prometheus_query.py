"""What a command asks of a Prometheus: queries, and what it scrapes."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from serving.errors import ClusterError

_TIMEOUT_S = 10.0
_Answer = TypeVar("_Answer")


def query_vector(
    url: str, expression: str, labels: Sequence[str], *, environ: Mapping[str, str] = os.environ
) -> dict[tuple[str, ...], float]:
    """The samples of a vector by the values of these labels.

    `RAY_PROMETHEUS_HEADERS` in the environment holds headers, as a JSON object.

    Raises:
        ClusterError: `prometheus_unavailable`; it may be there again later.
    """

    def by_labels(data: Any) -> dict[tuple[str, ...], float]:
        return {
            tuple(row["metric"].get(label, "") for label in labels): float(row["value"][1])
            for row in data["result"]
        }

    return _ask(url, "query", {"query": expression}, environ=environ, read=by_labels)


def query_series(
    url: str,
    expression: str,
    *,
    span: tuple[float, float],
    step_s: float,
    environ: Mapping[str, str] = os.environ,
) -> list[tuple[float, float]]:
    """The values of an expression of one series over time, [(Unix time, value)]; none if there is
    no such series.

    Args:
        span: from when to when, in Unix time.

    Raises:
        ClusterError: `prometheus_unavailable`.
    """

    def values(data: Any) -> list[tuple[float, float]]:
        rows = data["result"]
        return [(float(at), float(value)) for at, value in rows[0]["values"]] if rows else []

    start, end = (f"{moment:.3f}" for moment in span)
    query = {"query": expression, "start": start, "end": end, "step": f"{step_s:g}"}
    return _ask(url, "query_range", query, environ=environ, read=values)


def active_targets(
    url: str, *, environ: Mapping[str, str] = os.environ
) -> tuple[Mapping[str, Any], ...]:
    """What it scrapes: for each target its labels before and after relabelling, and its health.

    Raises:
        ClusterError: `prometheus_unavailable`.
    """
    return _ask(
        url, "targets", {"state": "active"}, environ=environ,
        read=lambda data: tuple(data["activeTargets"]),
    )  # fmt: skip


def _ask(
    url: str,
    what: str,
    query: Mapping[str, str],
    *,
    environ: Mapping[str, str],
    read: Callable[[Any], _Answer],
) -> _Answer:
    """What `read` makes of the answer's data; it may fail, as an address may be no Prometheus'."""
    try:
        headers = json.loads(environ.get("RAY_PROMETHEUS_HEADERS") or "{}")
        request = urllib.request.Request(  # noqa: S310 (the operator's own Prometheus)
            f"{url.rstrip('/')}/api/v1/{what}?{urllib.parse.urlencode(query)}", headers=headers
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return read(json.load(answer)["data"])
    except urllib.error.HTTPError as error:
        with error:
            raise _unavailable(url, f"HTTP {error.code}") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _unavailable(url, str(error)) from error


def _unavailable(url: str, cause: str) -> ClusterError:
    return ClusterError(
        f"Prometheus at {url} does not answer: {cause}",
        code="prometheus_unavailable",
        retryable=True,
        hint="--prometheus takes its address as seen from here, such as a port-forward's",
    )
