"""The process behind `galerne up`: starts everything, watches it come up, stops everything.

Ray's processes are its children, so whatever ends it ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from serving.adapters import process_tree, ray_cluster, serve_control
from serving.adapters.control_server import ControlServer
from serving.adapters.deployment_state import DeploymentState, DeploymentTarget, deployments_of
from serving.adapters.local_ports import HeldPorts, check_port
from serving.adapters.run_record import RunRecord, own_record
from serving.adapters.secrets_file import check_room, ensure_secret, read_secret
from serving.adapters.settings_file import write_settings
from serving.adapters.settings_loader import override_settings
from serving.adapters.state_paths import StatePaths
from serving.errors import ConfigError
from serving.gateway.edge import CALLBACK as EDGE
from serving.inspection import Inspector
from serving.settings.platform import Settings
from serving.status import failure_cause

DRAIN_TIMEOUT_S = 30.0
"""How long running requests may take to finish when the platform is told to stop: most answers are
shorter, and a person at a terminal still waits."""

_POLL_S = 0.5
_LAST_BYTES_S = 0.3
"""For HAProxy to pass on what the gateways have written."""

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
        self._inspector = Inspector(self._endpoint, paths)
        self._clocks: asyncio.Task[None] | None = None
        self._control: ControlServer | None = None
        self._control_url = ""
        self._ports = HeldPorts()
        self._created = int(time.time())
        self._is_ready = False
        self._stop_by = 0.0  # monotonic; when requests that still run are cut
        self._step = "stopping"
        self.stop_requested = asyncio.Event()

    def check(self, report: Report) -> None:
        """Return if the platform can be started here; what a killed run has left is ended.

        Raises:
            ConfigError: it already runs, its port is taken, or its folders cannot be written.
        """
        if (running := RunRecord.read(self._paths)) is not None:
            raise ConfigError(
                f"Galerne already runs at {running.endpoint} (pid {running.pid})",
                code="already_running",
                hint="stop it with `galerne down`, or use another GALERNE_STATE_DIR",
            )
        if num_ended := process_tree.end_leftovers(ray_cluster.run_dir_of(self._paths)):
            report(process_tree.told(num_ended))
        check_port(self._settings.endpoint.host, self._settings.endpoint.port)
        for folder in (self._paths.state_dir, self._paths.log_dir):
            check_room(folder)

    async def start(self, report: Report) -> Ready:
        """Start everything and return when every replica is ready.

        Raises:
            ConfigError: a setting, file or the machine is at fault, or a replica does not come up
                in `cluster.ready_timeout_s`.
        """
        self._listen_for_signals()
        ensure_secret(self._paths.internal_token_file)
        ensure_secret(self._paths.metrics_token_file)
        ensure_secret(self._paths.ray_token_file)
        self._control = ControlServer(
            read_secret(self._paths.internal_token_file),
            reads={
                "/status": self._status,
                "/settings": self._show_settings,
                "/rollout": self._rollout,
                "/stop": self._show_stop,
            },
            writes={
                "/settings": self._change_settings,
                "/stop": self._change_stop,
                "/route": self._inspector.route,
            },
        )
        self._control_url = await self._control.start()
        self._record(ready=False)
        report("starting Ray")
        await asyncio.to_thread(self._start_cluster)
        # Ray has put a handler of its own in front, which prints a stack trace.
        self._listen_for_signals()
        report("deploying")
        write_settings(self._paths.settings_file, self._settings)
        await asyncio.to_thread(self._deploy)
        await self._wait_until_running(report)
        report("checking the endpoint")
        await self._wait_until_reachable()
        self._record(ready=True)
        self._is_ready = True
        self._clocks = asyncio.create_task(self._inspector.watch_clocks())
        return Ready(self._endpoint, tuple(self._settings.models))

    def request_stop(self, drain_timeout_s: float) -> None:
        """Let `stop_requested` be set; running requests have that long. The latest call counts."""
        self._stop_by = time.monotonic() + drain_timeout_s
        self.stop_requested.set()

    async def drain(self, report: Report) -> None:
        """Refuse new requests and wait for the running ones, as long as `request_stop` says."""
        has_waited = False
        while time.monotonic() < self._stop_by:
            num_running = await asyncio.to_thread(serve_control.drain_gateways)
            if not num_running:
                break
            self._step = f"finishing {num_running} request{'s' * (num_running > 1)}"
            report(f"{self._step}; Ctrl-C stops at once")
            await asyncio.sleep(_POLL_S)
            has_waited = True
        if has_waited:
            await asyncio.sleep(_LAST_BYTES_S)
        self._step = "stopping"
        report(self._step)

    def _listen_for_signals(self) -> None:
        """SIGINT and SIGTERM ask for a stop; once more, and it is at once."""

        def stop() -> None:
            self.request_stop(0 if self.stop_requested.is_set() else DRAIN_TIMEOUT_S)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)

    async def stop(self) -> None:
        """Stop everything that `start` started."""
        if self._clocks is not None:
            self._clocks.cancel()
        children = process_tree.descendants(os.getpid())
        if self._control is not None:
            await self._control.stop()
        await asyncio.to_thread(ray_cluster.stop_ray)
        await process_tree.end(children)
        self._ports.release()
        self._paths.run_file.unlink(missing_ok=True)

    def _start_cluster(self) -> None:
        if self._settings.cluster.address is not None:
            ray_cluster.connect_ray(self._settings.cluster.address)
            return
        self._ports.hold(self._settings.endpoint.host, self._settings.endpoint.port)
        run_dir = ray_cluster.make_run_dir(self._paths)
        environment = ray_cluster.cluster_environment(
            self._settings,
            self._paths,
            run_dir=run_dir,
            edge=EDGE,
            ports=self._ports.hold_local(),
        )
        ray_cluster.drop_old_sessions(run_dir)
        ray_cluster.start_ray(environment, run_dir)
        ray_cluster.check_gpus(self._settings)
        self._link_ray_logs(run_dir)

    def _deploy(self) -> None:
        from serving.app import build_applications

        running = serve_control.deployment_states()
        applications = build_applications(
            self._settings, self._paths, created=self._created, running=running.keys()
        )
        serve_control.deploy(applications, endpoint=self._settings.endpoint)

    async def _wait_until_running(self, report: Report) -> None:
        deadline = time.monotonic() + self._settings.cluster.ready_timeout_s
        targets = self._targets()
        while True:
            applications = await asyncio.to_thread(serve_control.application_states)
            states = deployments_of(applications)
            report(_describe(states, targets))
            if all(
                name in states and _is_up(states[name], target) for name, target in targets.items()
            ):
                return
            if cause := failure_cause(applications):
                raise _start_failure(cause, self._paths)
            if time.monotonic() > deadline:
                raise _start_failure(
                    f"not ready within {self._settings.cluster.ready_timeout_s:.0f} s: "
                    + _describe(states, targets),
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

    def _targets(self) -> dict[str, DeploymentTarget]:
        from serving.app import deployment_targets

        return deployment_targets(self._settings, self._paths)

    def _record(self, *, ready: bool) -> None:
        own_record(endpoint=self._endpoint, control_url=self._control_url, ready=ready).write(
            self._paths
        )

    def _link_ray_logs(self, run_dir: Path) -> None:
        self._paths.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        link = self._paths.log_dir / "ray"
        link.unlink(missing_ok=True)
        link.symlink_to(run_dir / "ray" / "session_latest" / "logs")

    async def apply(self, settings: Settings) -> None:
        """Hand new settings to the running platform; `rollout` tells how that goes.

        Raises:
            ConfigError: they need a restart, the platform is not up yet, or the disk is full.
        """
        if not self._is_ready:
            raise ConfigError(
                "the platform is still starting", code="not_ready", hint="wait for `galerne up`"
            )
        for section in ("endpoint", "cluster"):
            if getattr(settings, section) != getattr(self._settings, section):
                raise ConfigError(
                    f"{section} cannot be changed while the platform runs",
                    code="needs_restart",
                    param=section,
                    hint="run `galerne down`, then `galerne up` with the new settings",
                )
        # First of all: what cannot be written is not in force anywhere.
        await asyncio.to_thread(write_settings, self._paths.settings_file, settings)
        self._settings = settings
        await asyncio.to_thread(self._deploy)

    async def _rollout(self) -> dict[str, Any]:
        return await self._inspector.rollout(self._targets())

    async def _show_settings(self) -> dict[str, Any]:
        return self._settings.model_dump(mode="json")

    async def _change_settings(self, document: Any) -> None:
        await self.apply(override_settings(document, ()))

    async def _show_stop(self) -> dict[str, Any]:
        return {"step": self._step}

    async def _change_stop(self, document: Any) -> None:
        self.request_stop(float(document["drain_timeout_s"]))

    async def _status(self) -> dict[str, Any]:
        return await self._inspector.status(list(self._settings.models))


def endpoint_url(settings: Settings) -> str:
    """Where clients on this machine connect.

    >>> from serving.settings.gateway import EndpointSettings
    >>> endpoint_url(Settings.model_construct(endpoint=EndpointSettings(host="0.0.0.0", port=80)))
    'http://127.0.0.1:80'
    """
    host = settings.endpoint.host
    if host in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.endpoint.port}"


def _is_up(state: DeploymentState, target: DeploymentTarget) -> bool:
    """Whether a deployment has started: a model that may sleep can already do so again."""
    sleeps = target.lowest == 0 and state.status == "HEALTHY"
    return sleeps or state.num_running >= max(target.lowest, 1)


def _describe(
    states: Mapping[str, DeploymentState], targets: Mapping[str, DeploymentTarget]
) -> str:
    parts = []
    for name, target in targets.items():
        running = states[name].num_running if name in states else 0
        parts.append(f"{name.removeprefix('engine:')} {running}/{max(target.lowest, 1)}")
    return "loading: " + ", ".join(parts) + " ready"


def _start_failure(cause: str, paths: StatePaths) -> ConfigError:
    return ConfigError(
        f"the platform did not start: {cause}",
        code="start_failed",
        hint=f"the whole story is in {paths.log_dir}/ray/serve",
    )
