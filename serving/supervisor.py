"""The process behind `galerne up`: starts everything, watches it come up, stops everything.

Ray's processes are its children, so whatever ends it ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from serving.adapters import ray_cluster, serve_control
from serving.adapters.run_record import RunRecord, own_record, process_start_ticks
from serving.adapters.secrets_file import ensure_secret, read_secret
from serving.adapters.state_paths import StatePaths
from serving.core.wire import FLEET_PATH, INTERNAL_TOKEN
from serving.errors import ConfigError
from serving.gateway.edge import CALLBACK as EDGE
from serving.settings import Settings
from serving.status import Views, compose_status

_POLL_S = 0.5

Report = Callable[[str], None]
"""Receives one line about the step in progress."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What to tell the person who started the platform."""

    endpoint: str
    models: tuple[str, ...]


class Supervisor:
    """One run of the platform on this machine."""

    def __init__(self, settings: Settings, paths: StatePaths) -> None:
        self._settings = settings
        self._paths = paths
        self._endpoint = endpoint_url(settings)
        self._runner: web.AppRunner | None = None
        self._status_url = ""

    def check(self) -> None:
        """Return if the platform can be started here.

        Raises:
            ConfigError: it already runs, or its port is taken.
        """
        if (running := RunRecord.read(self._paths)) is not None:
            raise ConfigError(
                f"Galerne already runs at {running.endpoint} (pid {running.pid})",
                code="already_running",
                hint="stop it with `galerne down`, or use another GALERNE_STATE_DIR",
            )
        ray_cluster.check_port(self._settings.endpoint.host, self._settings.endpoint.port)

    async def start(self, report: Report) -> Ready:
        """Start everything and return when every replica is ready.

        Raises:
            ConfigError: a setting, file or the machine is at fault, or a replica does not come up
                in `cluster.ready_timeout_s`.
        """
        ensure_secret(self._paths.internal_token_file)
        ensure_secret(self._paths.ray_token_file)
        await self._serve_status()
        self._record(ready=False)
        report("starting Ray")
        await asyncio.to_thread(self._start_cluster)
        report("deploying")
        await asyncio.to_thread(self._deploy)
        await self._wait_until_running(report)
        report("checking the endpoint")
        await self._wait_until_reachable()
        self._record(ready=True)
        return Ready(self._endpoint, tuple(self._settings.models))

    async def stop(self) -> None:
        """Stop everything that `start` started."""
        children = _descendants(os.getpid())
        if self._runner is not None:
            await self._runner.cleanup()
        await asyncio.to_thread(ray_cluster.stop_ray)
        await _end(children)
        self._paths.run_file.unlink(missing_ok=True)

    def _start_cluster(self) -> None:
        if self._settings.cluster.address is not None:
            ray_cluster.connect_ray(self._settings.cluster.address)
            return
        run_dir = ray_cluster.make_run_dir(self._paths)
        environment = ray_cluster.cluster_environment(
            self._settings,
            self._paths,
            run_dir=run_dir,
            edge=EDGE,
            ports=ray_cluster.free_ports(),
        )
        ray_cluster.drop_old_sessions(run_dir)
        ray_cluster.start_ray(environment, run_dir)
        ray_cluster.check_gpus(self._settings)
        self._link_ray_logs(run_dir)

    def _deploy(self) -> None:
        from serving.app import APP_NAME, build_application

        application = build_application(self._settings, self._paths)
        serve_control.deploy(application, name=APP_NAME, endpoint=self._settings.endpoint)

    async def _wait_until_running(self, report: Report) -> None:
        from serving.app import APP_NAME

        deadline = time.monotonic() + self._settings.cluster.ready_timeout_s
        wanted = self._wanted_replicas()
        while True:
            states = await asyncio.to_thread(serve_control.deployment_states, APP_NAME)
            report(_describe(states, wanted))
            if all(name in states and states[name].num_running >= n for name, n in wanted.items()):
                return
            if failure := await asyncio.to_thread(serve_control.application_failure, APP_NAME):
                raise _start_failure(failure, self._paths)
            if time.monotonic() > deadline:
                raise _start_failure(
                    f"not ready within {self._settings.cluster.ready_timeout_s:.0f} s: "
                    + _describe(states, wanted),
                    self._paths,
                )
            await asyncio.sleep(_POLL_S)

    async def _wait_until_reachable(self) -> None:
        deadline = time.monotonic() + self._settings.cluster.ready_timeout_s
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self._endpoint}/health") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(_POLL_S / 5)
        raise _start_failure("the endpoint does not answer", self._paths)

    def _wanted_replicas(self) -> dict[str, int]:
        from serving.app import GATEWAY, engine_deployment_name

        engines = {
            engine_deployment_name(model_id): model.replicas
            for model_id, model in self._settings.models.items()
        }
        return {**engines, GATEWAY: self._settings.gateway.replicas}

    def _record(self, *, ready: bool) -> None:
        own_record(endpoint=self._endpoint, status_url=self._status_url, ready=ready).write(
            self._paths
        )

    def _link_ray_logs(self, run_dir: Path) -> None:
        self._paths.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        link = self._paths.log_dir / "ray"
        link.unlink(missing_ok=True)
        link.symlink_to(run_dir / "ray" / "session_latest" / "logs")

    async def _serve_status(self) -> None:
        """Answer `galerne status` on a free loopback port, to holders of the internal token."""
        token = read_secret(self._paths.internal_token_file)

        async def answer(request: web.Request) -> web.Response:
            presented = request.headers.get(INTERNAL_TOKEN.decode(), "")
            if not hmac.compare_digest(presented.encode(), token.encode()):
                return web.Response(status=401)
            return web.json_response(await self._status(token))

        application = web.Application()
        application.router.add_get("/status", answer)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._status_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/status"

    async def _status(self, token: str) -> dict[str, Any]:
        from serving.app import APP_NAME, GATEWAY

        states, gateways, fleet = await asyncio.gather(
            asyncio.to_thread(serve_control.deployment_states, APP_NAME),
            asyncio.to_thread(serve_control.replica_processes, APP_NAME, GATEWAY),
            self._fleet(token),
        )
        views = Views(states=states, gateways=gateways, fleet=fleet)
        return compose_status(self._endpoint, list(self._settings.models), views)

    async def _fleet(self, token: str) -> dict[str, Any] | None:
        """What a gateway sees, or `None` while there is none."""
        headers = {INTERNAL_TOKEN.decode(): token}
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self._endpoint + FLEET_PATH, headers=headers) as answer,
            ):
                if answer.status != 200:
                    return None
                fleet: dict[str, Any] = await answer.json()
                return fleet
        except (aiohttp.ClientError, TimeoutError):
            return None


def endpoint_url(settings: Settings) -> str:
    """Where clients on this machine connect.

    >>> from serving.settings import EndpointSettings
    >>> endpoint_url(Settings.model_construct(endpoint=EndpointSettings(host="0.0.0.0", port=80)))
    'http://127.0.0.1:80'
    """
    host = settings.endpoint.host
    if host in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.endpoint.port}"


def stop_on_signal(stop: asyncio.Event) -> None:
    """Let SIGINT and SIGTERM set the event.

    Called again after Ray has started, which puts a handler of its own that prints a stack trace
    in front.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


def _describe(states: Mapping[str, ray_cluster.DeploymentState], wanted: Mapping[str, int]) -> str:
    parts = []
    for name, count in wanted.items():
        running = states[name].num_running if name in states else 0
        parts.append(f"{name.removeprefix('engine:')} {running}/{count}")
    return "loading: " + ", ".join(parts) + " ready"


def _start_failure(message: str, paths: StatePaths) -> ConfigError:
    cause = ray_cluster.DeploymentState("", {}, message).cause
    return ConfigError(
        f"the platform did not start: {cause}",
        code="start_failed",
        hint=f"the whole story is in {paths.log_dir}/ray/serve",
    )


def _descendants(pid: int) -> list[tuple[int, int]]:
    """All processes below `pid`, as (pid, start time in ticks)."""
    found: list[tuple[int, int]] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                ticks = process_start_ticks(child)
                if ticks is not None:
                    found += [(child, ticks), *_descendants(child)]
    return found


async def _end(processes: list[tuple[int, int]]) -> None:
    """Wait for processes to end by themselves, then kill those left. A recycled pid is spared."""

    def left() -> list[int]:
        return [pid for pid, ticks in processes if process_start_ticks(pid) == ticks]

    deadline = time.monotonic() + 5
    while left() and time.monotonic() < deadline:  # noqa: ASYNC110 (processes raise no event)
        await asyncio.sleep(0.05)
    for pid in left():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
