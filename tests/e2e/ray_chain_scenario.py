"""Replicas are ordered and let go on a cluster whose nodes come and go with them.

A program of its own, since a process can join one Ray cluster only, and the tests' own has others:
`python -m e2e.ray_chain_scenario ADDRESS STATE_DIR RECORD` writes what it has seen to RECORD.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from e2e.autoscaling_ray import MOST_NODES
from e2e.harness import wait_until
from serving.adapters import serve_control
from serving.adapters.replica_directory import watch_replicas
from serving.adapters.secrets_file import read_secret
from serving.adapters.settings_loader import override_settings
from serving.adapters.state_paths import StatePaths
from serving.core.types import ReplicaEndpoint
from serving.core.wire import INTERNAL_TOKEN
from serving.planner.serve_config import engine_name
from serving.settings.platform import Settings

MODEL = "sim"
DEPLOYMENT = engine_name(MODEL)
STEP_S = 0.1
STREAM_S = 9.0
"""Several times the idle timeout: a node that drains has time to look idle."""
NUM_TOKENS = int(STREAM_S / STEP_S)
_LINK_TIMEOUT_S = 60.0
_PATIENCE_S = 5.0
"""Several rounds of the autoscaler: a node that was not ordered by then will not be."""


def settings() -> Settings:
    """One simulated model that takes a GPU and may have more replicas than there can be nodes."""
    model = {
        "simulator": {"start_s": 0, "timing": {"step_s": STEP_S}},
        "resources": {"device": "gpu"},
        "drain_timeout_s": 60,
        "scaling": {"min_replicas": 0, "max_replicas": MOST_NODES + 1},
    }
    return override_settings({"models": {MODEL: model}}, ())


@dataclass(frozen=True, slots=True)
class Sight:
    """What Serve and Ray say at one moment.

    `waiting` are placement-group bundles that fit on no node, `nodes` the worker nodes alive.
    """

    ordered: int
    running: int
    replicas: int
    waiting: int
    nodes: frozenset[str]


Links = Mapping[str, Callable[[Sight], bool]]


def up_to(number: int) -> Links:
    """The links between an order of more replicas and the last of them."""
    return {
        "ordered": lambda sight: sight.ordered == number,
        "demand": lambda sight: sight.waiting > 0,
        "nodes": lambda sight: len(sight.nodes) == number,
        "running": lambda sight: sight.running == number,
    }


def down_to(number: int) -> Links:
    """The links between an order of fewer replicas and the end of the last node."""
    return {
        "ordered": lambda sight: sight.ordered == number,
        "drained": lambda sight: sight.replicas == number,
        "nodes": lambda sight: len(sight.nodes) == number,
    }


class Chain:
    """The model's deployment on the cluster at `address`; `endpoints` are its running replicas."""

    def __init__(self, address: str, paths: StatePaths) -> None:
        self._address = address
        self._order = paths.state_dir / "order"
        self._token = read_secret(paths.internal_token_file)
        self.endpoints: tuple[ReplicaEndpoint, ...] = ()
        self.node_ends: dict[str, float] = {}
        self._nodes: frozenset[str] = frozenset()
        self._write_order(0)
        serve.start(proxy_location="Disabled")
        serve.run(self._application(paths), name=DEPLOYMENT, route_prefix=None)
        handle = serve.get_deployment_handle(DEPLOYMENT, app_name=DEPLOYMENT)
        watch_replicas(handle, self._hear)

    def _application(self, paths: StatePaths) -> serve.Application:
        """The model's own application, with a policy that a file commands."""
        from serving.app import build_model

        policy = AutoscalingPolicy(
            policy_function="e2e.ray_chain_policy:OrderedReplicas",
            policy_kwargs={"file": str(self._order)},
        )
        scaling = AutoscalingConfig(
            min_replicas=0,
            max_replicas=MOST_NODES + 1,
            upscale_delay_s=0,
            downscale_delay_s=0,
            policy=policy,
        )
        model = settings().models[MODEL]
        return build_model(MODEL, model, paths, number={"autoscaling_config": scaling})

    def _hear(self, endpoints: tuple[ReplicaEndpoint, ...]) -> None:
        self.endpoints = endpoints

    def _write_order(self, number: int) -> None:
        fresh = self._order.with_suffix(".new")
        fresh.write_text(str(number))
        fresh.replace(self._order)

    def look(self) -> Sight:
        """What Serve and Ray say now; ends of nodes are noted."""
        demands = get_cluster_status(self._address).resource_demands.placement_group_demand
        nodes = frozenset(
            node["NodeID"] for node in ray.nodes() if node["Alive"] and "GPU" in node["Resources"]
        )
        self.node_ends |= dict.fromkeys(self._nodes - nodes, time.monotonic())
        self._nodes = nodes
        # Last, so that no look sees the demand of an order and not the order.
        state = serve_control.deployment_states()[DEPLOYMENT]
        return Sight(
            ordered=len(state.replicas) - state.count("STOPPING"),
            running=state.num_running,
            replicas=len(state.replicas),
            waiting=sum(bundles.count for d in demands for bundles in d.bundles_by_count),
            nodes=nodes,
        )

    def order(self, number: int, links: Links) -> dict[str, Any]:
        """Order so many replicas; seconds until each link was seen, and what there is then."""
        begun = time.monotonic()
        self._write_order(number)
        seen: dict[str, float] = {}
        sight = self.look()

        def are_all_seen() -> bool:
            nonlocal sight
            sight = self.look()
            now_s = round(time.monotonic() - begun, 1)
            for name, is_there in links.items():
                if name not in seen and is_there(sight):
                    seen[name] = now_s
                    print(f"order of {number}: {name} after {now_s} s", flush=True)
            return len(seen) == len(links)

        wait_until(are_all_seen, timeout_s=_LINK_TIMEOUT_S, what=f"{[*links]} of {number}")
        return {"links": seen, "running": sight.running, "nodes": len(sight.nodes)}

    def order_too_many(self) -> dict[str, Any]:
        """Order one replica more than there can be nodes, and see what comes of it."""
        self._write_order(MOST_NODES + 1)
        wait_until(
            lambda: self.look().running == MOST_NODES, timeout_s=_LINK_TIMEOUT_S, what="what fits"
        )
        given_up = time.monotonic() + _PATIENCE_S
        wait_until(
            lambda: len(self.look().nodes) > MOST_NODES or time.monotonic() > given_up,
            timeout_s=_LINK_TIMEOUT_S,
        )
        sight = self.look()
        return {"waiting": sight.waiting, "running": sight.running, "nodes": len(sight.nodes)}

    def start_streams(self, pool: ThreadPoolExecutor) -> list[Future[dict[str, Any]]]:
        """One long answer of each running replica, all of them begun."""
        number = self.look().running
        wait_until(lambda: len(self.endpoints) == number, timeout_s=_LINK_TIMEOUT_S)
        begun = {endpoint: threading.Event() for endpoint in self.endpoints}
        streams = [pool.submit(self._stream, *each) for each in begun.items()]
        assert all(event.wait(timeout=_LINK_TIMEOUT_S) for event in begun.values())
        return streams

    def _stream(self, endpoint: ReplicaEndpoint, begun: threading.Event) -> dict[str, Any]:
        message = {"role": "user", "content": "Tell me about the sea."}
        length = {"max_tokens": NUM_TOKENS, "ignore_eos": True}
        body = {"model": MODEL, "messages": [message], "stream": True, **length}
        headers = {INTERNAL_TOKEN.decode(): self._token}
        url = f"{endpoint.url}/v1/chat/completions"
        text = ""
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer,
        ):
            for piece in answer.iter_text():
                text += piece
                begun.set()
        is_whole = text.count('"content"') >= NUM_TOKENS and text.rstrip().endswith("[DONE]")
        return {"node": endpoint.node_id, "is_whole": is_whole, "ended": time.monotonic()}


def play(chain: Chain) -> dict[str, Any]:
    """All orders in turn, and what came of them."""
    record: dict[str, Any] = {
        "first": chain.order(1, up_to(1)),
        "more": chain.order(MOST_NODES, up_to(MOST_NODES)),
    }
    with ThreadPoolExecutor() as pool:
        streams = chain.start_streams(pool)
        record["fewer"] = chain.order(1, down_to(1))
    record["streams"] = [stream.result() for stream in streams]
    for stream in record["streams"]:
        ended, node_ended = stream.pop("ended"), chain.node_ends.get(stream["node"])
        stream["node_outlived_it_s"] = node_ended and round(node_ended - ended, 1)
    record["none"] = chain.order(0, down_to(0))
    record["woken"] = chain.order(1, up_to(1))
    record["too_many"] = chain.order_too_many()
    record["end"] = chain.order(0, down_to(0))
    return record


def main(address: str, state_dir: str, record: str) -> None:
    """Play the scenario on the cluster and write what was seen."""
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    try:
        chain = Chain(address, StatePaths.of(Path(state_dir), Path(state_dir)))
        Path(record).write_text(json.dumps(play(chain)))
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
