"""A Ray cluster on this machine that lives and dies with one process, and Serve on it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from serving.adapters.descriptors import descriptor_limit
from serving.adapters.local_ports import LocalPorts
from serving.adapters.state_paths import StatePaths
from serving.errors import ConfigError
from serving.planner.placement import plan_placement
from serving.settings.gateway import GatewaySettings, LimitSettings
from serving.settings.platform import Settings

_OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Serve passes requests over HTTP; the object store only carries deployment definitions."""


_MAX_RUN_DIR_CHARS = 28
"""HAProxy takes socket paths of 97 characters; Serve appends a node id of 56 and `admin.sock`."""

_MAX_HAPROXY_THREADS = 4
_DEREGISTRATION_S = 2.0
_REFUSAL_MARGIN_S = 10.0
"""Covers the gateway's swallowing of a refused upload (2 s) and a busy machine."""
_HAPROXY_HARD_STOP_S = 86_400
"""HAProxy starts anew whenever gateways come or go; its old process keeps the running streams, also
those that nobody told to stop, and must outlive them."""
_HAPROXY_BUFFER_BYTES = 128 * 1024
"""A request head must fit in one, else HAProxy refuses it in its own words; the gateway's limit is
at most 32 KiB, and what is not absurdly beyond that shall get the gateway's answer. A connection
has two buffers while bytes wait in them, and none while it is idle: 6,144 clients that all stall at
the worst moment would take 1.5 GiB, of which the kernel backs only the pages that were written."""
_MAX_CONNECTIONS = 32_768
_HAPROXY_OWN_DESCRIPTORS = 64


def cluster_environment(
    settings: Settings, paths: StatePaths, *, run_dir: Path, edge: str, ports: LocalPorts
) -> dict[str, str]:
    """Environment of a local cluster's processes.

    Args:
        run_dir: folder for sockets and generated configuration; must have a short path.
        edge: import path of the function that gives the middlewares before Serve's own code.
        ports: free ports, so that two platforms on one machine do not meet.

    Source: ray/serve/_private/constants.py, ray 2.60.0.
    """
    environment = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Throughput mode would hold 1,000 log lines back, which is no log to open.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": edge,
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DEREGISTRATION_S),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(sys.executable).parent / "galerne-haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run_dir / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run_dir / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run_dir / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Else three failed connections, which a burst at the limit of file descriptors makes, take
        # a gateway out for a second; if it is the only one, everybody is refused meanwhile. A
        # gateway that is gone refuses connections, and those are made to another at once.
        "RAY_SERVE_HAPROXY_OBSERVE_MARK_DOWN_ENABLED": "0",
        # Nobody gets in while the process that watches over HAProxy is gone; Serve asks three times
        # before it starts another, by default every 10 s.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # Cuts clients that take no bytes, which a gateway cannot: ASGI has no way to reset a
        # connection. Waiting for a slow answer does not count (measured on HAProxy 2.8.25).
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(_client_timeout_s(settings.gateway.limits)),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.haproxy_stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.haproxy_metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback_proxy),
        # Failed starts of a first replica before Serve gives up; each costs a model load.
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "2",
        # An engine that hangs would otherwise drain for as long as its longest stream may run, and
        # hold its GPU meanwhile.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(_MAX_HAPROXY_THREADS, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_MAXCONN": str(_max_connections(settings.gateway, descriptor_limit())),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_HAPROXY_BUFFER_BYTES),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(_HAPROXY_HARD_STOP_S),
        "GALERNE_HEADER_TIMEOUT_S": str(settings.gateway.limits.header_timeout_s),
        # Makes Ray take the loopback address as this node's, so that its processes, the gateways
        # and the engine listeners are not reachable from the network. The gRPC server of each Serve
        # replica still is: it binds `[::]:0` whatever is set (ray/serve/_private/replica.py,
        # `_on_initialized`), and Ray's token is all that guards it.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ray's own monitor kills the youngest workers first and several at once, the gateway and
        # Serve's controller among them. The kernel is left to choose: it takes engines first
        # (serving/engine/oom.py), and these workers no sooner than other processes.
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_worker_oom_score_adjustment": "0",
        "RAY_worker_niceness": str(settings.cluster.worker_niceness),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(paths.ray_token_file),
        # A second series for each counter, which says when it was made and nobody asks for.
        "PROMETHEUS_DISABLE_CREATED_SERIES": "True",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    weights = [model.weights for model in settings.models.values() if model.weights is not None]
    if not any(weight.is_on_hub for weight in weights):
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


def _max_connections(gateway: GatewaySettings, limit: int) -> int:
    """Clients that HAProxy takes at once: as many as its gateways do, under a limit of file
    descriptors; further ones wait, first come first served.

    It takes two descriptors for each and does not start if they are not to be had.

    >>> gateway = GatewaySettings(replicas=2)
    >>> _max_connections(gateway, 100_000), _max_connections(gateway, 1024)
    (12288, 480)
    """
    wanted = min(gateway.replicas * gateway.max_concurrent_requests, _MAX_CONNECTIONS)
    return min(wanted, (limit - _HAPROXY_OWN_DESCRIPTORS) // 2)


def _client_timeout_s(limits: LimitSettings) -> int:
    """HAProxy's limit on a client's inactivity: never before the gateway's own answer to it."""
    slowest_refusal_s = limits.upload_timeout_s + _REFUSAL_MARGIN_S
    return math.ceil(max(limits.stalled_read_timeout_s, slowest_refusal_s))


def run_dir_of(paths: StatePaths) -> Path:
    """Where the run folder of a state folder is, or would be."""
    digest = hashlib.sha256(str(paths.state_dir).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"galerne-{digest}"


def make_run_dir(paths: StatePaths) -> Path:
    """A private folder with a path short enough for UNIX sockets, one per state folder.

    Raises:
        ConfigError: the temporary folder's path is too long, or somebody else owns the folder.
    """
    run_dir = run_dir_of(paths)
    if len(str(run_dir)) > _MAX_RUN_DIR_CHARS:
        raise ConfigError(
            "the temporary folder's path is too long for UNIX sockets",
            code="run_dir_too_long",
            hint="set TMPDIR to a short path such as /tmp",
        )
    with contextlib.suppress(FileExistsError):
        run_dir.mkdir(mode=0o700)
    found = run_dir.lstat()
    # In a shared temporary folder anybody may have put something else at this name.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(
            "the run folder is not a folder of this user",
            code="run_dir_foreign",
            hint=f"remove {run_dir} or set TMPDIR",
        )
    run_dir.chmod(0o700)
    return run_dir


def drop_old_sessions(run_dir: Path) -> None:
    """Only the logs of the latest run remain in the run folder."""
    latest = run_dir / "ray" / "session_latest"
    keep = latest.resolve().name if latest.exists() else None
    for session in (run_dir / "ray").glob("session_2*"):
        if session.name != keep:
            shutil.rmtree(session, ignore_errors=True)


def start_ray(environment: Mapping[str, str], run_dir: Path) -> None:
    """Start a local Ray cluster bound to the loopback address, as children of this process.

    A watchdog of Ray's ends them if this process dies, however it dies.
    """
    os.environ.update(environment)
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.ERROR,
        object_store_memory=_OBJECT_STORE_BYTES,
        _temp_dir=str(run_dir / "ray"),
    )


def connect_ray(address: str) -> None:
    """Join a running cluster; its operator set the environment of its processes."""
    import ray

    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}",
            code="cluster_unreachable",
            param="cluster.address",
            hint="check the address and RAY_AUTH_TOKEN, or leave it unset to start a local one",
        ) from error


def stop_ray() -> None:
    """End the cluster this process started."""
    import ray

    ray.shutdown()


def check_gpus(settings: Settings) -> None:
    """Return if the started cluster has the GPUs that all replicas together reserve.

    Raises:
        ConfigError: `not_enough_gpus`; Serve would wait for them for ever.
    """
    import ray

    wanted = sum(
        model.replicas * sum(bundle.get("GPU", 0.0) for bundle in placement.bundles)
        for model in settings.models.values()
        for placement in [plan_placement(model.engine, resources=model.resources)]
    )
    present = ray.cluster_resources().get("GPU", 0.0)
    if wanted > present:
        raise ConfigError(
            f"the models need {wanted:g} GPUs and this machine has {present:g}",
            code="not_enough_gpus",
            param="models",
            hint="lower replicas or parallel sizes, or use --preset cpu",
        )
