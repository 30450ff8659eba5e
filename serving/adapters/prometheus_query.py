"""One instant query to a Prometheus, from a command."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence

from serving.errors import ClusterError

_TIMEOUT_S = 10.0


def query_vector(
    url: str, expression: str, labels: Sequence[str], *, environ: Mapping[str, str] = os.environ
) -> dict[tuple[str, ...], float]:
    """The samples of a vector by the values of these labels.

    `RAY_PROMETHEUS_HEADERS` in the environment holds headers, as a JSON object.

    Raises:
        ClusterError: `prometheus_unavailable`; it may be there again later.
    """
    query = urllib.parse.urlencode({"query": expression})
    try:
        headers = json.loads(environ.get("RAY_PROMETHEUS_HEADERS") or "{}")
        request = urllib.request.Request(  # noqa: S310 (the operator's own Prometheus)
            f"{url.rstrip('/')}/api/v1/query?{query}", headers=headers
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            rows = json.load(answer)["data"]["result"]
        return {
            tuple(row["metric"].get(label, "") for label in labels): float(row["value"][1])
            for row in rows
        }
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
