"""A real Prometheus server and its promtool, from Debian's package."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from debian_packages import unpacked

from loadtest.processes import free_port, running, wait_until_up


def find_tool(name: Literal["prometheus", "promtool"]) -> str:
    """Path of the program: the installed one, or that of Debian's package.

    Skips the test, with the reason, where neither can be had.
    """
    if installed := shutil.which(name):
        return installed
    return str(unpacked(name, "prometheus"))


class Prometheus:
    """A running server and the questions tests ask it."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def targets(self) -> list[dict[str, Any]]:
        """The targets it scrapes."""
        found: list[dict[str, Any]] = self._ask("/api/v1/targets?state=active")["activeTargets"]
        return found

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series that a PromQL expression gives.

        Raises:
            ValueError: Prometheus cannot evaluate it; the message is its own.
        """
        result = self._ask(f"/api/v1/query?query={urllib.parse.quote(expression)}")["result"]
        return [(row["metric"], float(row["value"][1])) for row in result]

    def _ask(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(self._url + path, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from error


@contextmanager
def running_prometheus(config: Path, *, port: int | None = None) -> Iterator[Prometheus]:
    """A server with this configuration and its data beside it, on a free port unless told."""
    port = port or free_port()
    command = [
        find_tool("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={config.parent / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command) as child:
        wait_until_up(child, f"http://127.0.0.1:{port}/-/ready", timeout_s=60)
        yield Prometheus(port)
