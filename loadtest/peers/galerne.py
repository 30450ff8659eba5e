"""Galerne itself, with a real engine (preset `cpu`) or with simulated ones (preset `sim`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from loadtest.accounting import Roles
from loadtest.engines import set_options
from loadtest.peers.base import Peer, Server, UnavailableError
from loadtest.processes import free_port
from serving import __version__
from serving.adapters.ray_cluster import make_run_dir
from serving.adapters.state_paths import StatePaths
from serving.core.wire import FLEET_PATH, INTERNAL_TOKEN, METRIC_TARGETS_PATH

SIM_MODEL = "sim"
_START_TIMEOUT_S = 300
_DOWN_TIMEOUT_S = 150


class Platform:
    """The command line of one platform with a state folder of its own."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._environment = {**os.environ, "GALERNE_STATE_DIR": str(state)}

    def run(self, *words: str, timeout_s: float = _START_TIMEOUT_S) -> str:
        """What the command prints.

        Raises:
            UnavailableError: it failed; the message holds its last lines.
        """
        command = [sys.executable, "-m", "serving", *words]
        try:
            done = subprocess.run(
                command, env=self._environment, check=True, capture_output=True, text=True,
                timeout=timeout_s,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            lines = (error.stdout + error.stderr).strip().splitlines()[-15:]
            raise UnavailableError("\n".join([f"galerne {words[0]} failed", *lines])) from error
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"galerne {words[0]} took over {timeout_s:.0f} s") from error
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `galerne status --json` says."""
        document: dict[str, Any] = json.loads(self.run("status", "--json", timeout_s=30))
        return document

    def access_log(self) -> Iterator[dict[str, Any]]:
        """The requests that the gateways have logged."""
        for path in (self._state / "logs").glob("gateway-*.jsonl"):
            yield from map(json.loads, path.read_text().splitlines())

    def metrics_headers(self) -> dict[str, str]:
        """What a scraper sends."""
        token = (self._state / "metrics-token").read_text().strip()
        return {"Authorization": f"Bearer {token}"}

    def descendants(self) -> list[psutil.Process]:
        """Every process of the platform but the first."""
        supervisor = json.loads((self._state / "run.json").read_text())["pid"]
        return _children(psutil.Process(supervisor))

    def processes(self) -> Roles:
        """Every process by role: `gateway`, `haproxy`, `engine`, and `ray` for all others."""
        status = self.status()
        gateways = {row["pid"] for row in status["gateways"]}
        engines = {row["pid"] for model in status["models"] for row in model["replicas"]}
        supervisor = psutil.Process(json.loads((self._state / "run.json").read_text())["pid"])
        tree = {child.pid: child for child in supervisor.children(recursive=True)}
        inside = engines | {c.pid for p in engines if p in tree for c in _children(tree[p])}
        roles = {"gateway": gateways, "engine": inside, "haproxy": set(), "ray": {supervisor.pid}}
        for pid, process in tree.items():
            if pid not in gateways and pid not in inside:
                roles["haproxy" if _name(process) == "haproxy" else "ray"].add(pid)
        return {role: frozenset(pids) for role, pids in roles.items()}

    def drop_run_folder(self) -> None:
        """Ray's logs and sockets are gone too; they lie beside the state folder, not in it."""
        paths = replace(StatePaths.from_environment(), state_dir=self._state)
        shutil.rmtree(make_run_dir(paths), ignore_errors=True)

    def engine(self, url: str, model: str) -> Server:
        """The listener of an engine replica, called without the gateway, as the gateway calls it.

        Raises:
            UnavailableError: no gateway names a replica.
        """
        token = (self._state / "internal-token").read_text().strip()
        headers = {INTERNAL_TOKEN.decode(): token}
        request = urllib.request.Request(url + FLEET_PATH, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            replicas = json.load(answer)["models"][model]
        if not replicas:
            raise UnavailableError("galerne: no gateway names an engine replica")
        return Server(replicas[0]["url"].rstrip("/"), model, headers)


def engine_metrics(url: str, headers: Mapping[str, str]) -> list[str]:
    """Where the engines behind an endpoint tell their metrics.

    Args:
        headers: of a scraper.
    """
    request = urllib.request.Request(url + METRIC_TARGETS_PATH, headers=dict(headers))
    with urllib.request.urlopen(request, timeout=10) as answer:
        groups = json.load(answer)
    return [
        f"http://{target}/metrics"
        for group in groups
        if group["labels"]["component"] == "engine"
        for target in group["targets"]
    ]


@contextmanager
def started(model: str, words: Sequence[str]) -> Iterator[tuple[Platform, Server]]:
    """A platform started with these options of `galerne up`; it is down on exit.

    Raises:
        UnavailableError: it does not come up.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gb-", ignore_cleanup_errors=True) as folder:
        galerne = Platform(Path(folder))
        try:
            galerne.run("up", *words, "--port", str(port), "--detach")
            made = galerne.run("keys", "create", "--name", "bench", "--json")
            headers = {"Authorization": f"Bearer {json.loads(made)['key']}"}
            url = f"http://127.0.0.1:{port}"
            server = Server(url, model, headers, galerne.processes)
            yield galerne, replace(server, direct=galerne.engine(url, model))
        finally:
            galerne.run("down", timeout_s=_DOWN_TIMEOUT_S)
            galerne.drop_run_folder()


@contextmanager
def platform(model: str, words: Sequence[str]) -> Iterator[Server]:
    """As `started`, for whoever only sends requests."""
    with started(model, words) as (_, server):
        yield server


def simulated(
    settings: Mapping[str, Any], *, replicas: int = 1, words: Sequence[str] = ()
) -> AbstractContextManager[Server]:
    """The platform over simulated engines.

    Args:
        settings: overrides of the model by path, for example `simulator.timing.step_s`.
        words: further options of `galerne up`.
    """
    return platform(SIM_MODEL, [*simulated_words(settings, replicas=replicas), *words])


def simulated_words(settings: Mapping[str, Any], *, replicas: int) -> list[str]:
    """Options of `galerne up` for simulated engines with these settings of the model by path."""
    below = {f"models.{SIM_MODEL}.{path}": value for path, value in settings.items()}
    return ["--preset", "sim", "--replicas", str(replicas), *set_options(below)]


def install() -> str:
    """The version of this checkout."""
    return __version__


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _start_cpu(_engines: Sequence[str], _model: str) -> AbstractContextManager[Server]:
    return platform("demo", ["--preset", "cpu"])


PEER = Peer("galerne", install, _start_cpu, simulated)

_NO_JOURNALS = ("--set", "gateway.limits.max_journal_bytes=0")
WITHOUT_JOURNALS = Peer(
    "galerne-without-journals", install, _start_cpu, partial(simulated, words=_NO_JOURNALS)
)
