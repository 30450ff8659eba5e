"""A platform on Kubernetes as its objects, and `galerne k8s` run on them."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from kube_api.server import KubeApi
from typer.testing import CliRunner

from serving.adapters.kube.transport import Pacing
from serving.cli.console import report
from serving.cli.k8s import app
from serving.errors import ServingError
from serving.operations.snapshot import Snapshot

NAMESPACE = "default"
GPU = "nvidia.com/gpu"
MODEL = "mistral-7b"

Object = dict[str, Any]


def settings(**scaling: int) -> Object:
    """A settings tree with one model on the pool `gpu`, scaled by load if bounds are given."""
    model: Object = {
        "weights": {"source": "mistralai/Mistral-7B-Instruct-v0.3", "revision": "a" * 40},
        "engine": {"max_model_len": 8192},
        "resources": {"device": "gpu", "pool": "gpu"},
        "replicas": 1,
    }
    if scaling:
        capacity = {"prompt_token_s": 1e-5, "output_token_s": 1e-3}
        model["scaling"] = {**scaling, "capacity": capacity}
        del model["replicas"]
    return {"models": {MODEL: model}}


def serve_document(tree: Mapping[str, Any]) -> str:
    """The `serveConfigV2` of a settings tree."""
    model = tree["models"][MODEL]
    scaling = model.get("scaling")
    number: Object = {"num_replicas": model.get("replicas", 1)}
    gateway_model: Object = {"resources": model["resources"]}
    if scaling:
        bounds = {key: scaling[key] for key in ("min_replicas", "max_replicas")}
        number = {"autoscaling_config": bounds}
        gateway_model["scaling"] = {"min_replicas": min(bounds["min_replicas"], 1)}
    engine = {"name": f"engine:{MODEL}", "args": {"name": MODEL},
              "deployments": [{"name": f"engine:{MODEL}", **number}]}  # fmt: skip
    gateways = {"name": "galerne", "args": {"settings": {"models": {MODEL: gateway_model}}},
                "deployments": [{"name": "gateway", "num_replicas": 2}]}  # fmt: skip
    return yaml.safe_dump({"applications": [gateways, engine]}, sort_keys=False)


def template(gpus: int = 0, *, image: str = "galerne:1", cpu: str = "8") -> Object:
    resources: Object = {"cpu": cpu, "memory": "32Gi"} | ({GPU: str(gpus)} if gpus else {})
    container = {"name": "ray", "image": image,
                 "resources": {"requests": resources, "limits": resources}}  # fmt: skip
    items = [{"key": key, "path": key} for key in ("internal-token", "keys.json")]
    secret = {"secret": {"name": "galerne-secrets", "items": items}}
    volumes = [{"name": "state", "projected": {"sources": [secret]}}]
    return {"spec": {"containers": [container], "volumes": volumes}}


def cluster_config(*, least: int = 1, most: int = 2, gpus: int = 1, image: str = "galerne:1",
                   replicas: int = 1) -> Object:  # fmt: skip
    group = {
        "groupName": "gpu", "replicas": replicas, "minReplicas": least, "maxReplicas": most,
        "rayStartParams": {}, "template": template(gpus, image=image),
        "numOfHosts": 1, "priority": 0,  # as KubeRay's schema has it if nothing is said
    }  # fmt: skip
    head = {"rayStartParams": {}, "template": template(image=image)}
    return {"rayVersion": "2.60.0", "headGroupSpec": head, "workerGroupSpecs": [group]}


def statuses(state: str = "RUNNING", message: str = "") -> Object:
    """What KubeRay tells of Serve's applications."""
    deployments = {"galerne": "gateway", f"engine:{MODEL}": f"engine:{MODEL}"}
    return {
        name: {
            "status": state if name != "galerne" else "RUNNING",
            "message": message if name != "galerne" else "",
            "serveDeploymentStatuses": {deployment: {"status": "HEALTHY"}},
        }
        for name, deployment in deployments.items()
    }


def ready_status(generation: int, *, cluster: str = "galerne-a", state: str = "RUNNING") -> Object:
    return {
        "observedGeneration": generation,
        "activeServiceStatus": {"rayClusterName": cluster, "applicationStatuses": statuses(state)},
        "pendingServiceStatus": {},
        "conditions": [
            condition("Ready", "True", "NonZeroServeEndpoints"),
            condition("UpgradeInProgress", "False", "NoPendingCluster"),
        ],
    }


def condition(kind: str, status: str, reason: str = "Any", message: str = "") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip


def service(tree: Mapping[str, Any] | None = None, **config: Any) -> Object:
    """A RayService that is ready."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "galerne", "namespace": NAMESPACE, "generation": 1},
        "spec": {
            "serveConfigV2": serve_document(tree or settings()),
            "rayClusterConfig": cluster_config(**config),
        },
        "status": ready_status(1),
    }


def cluster(name: str = "galerne-a", **config: Any) -> Object:
    labels = {"ray.io/originated-from-cr-name": "galerne"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": cluster_config(**config),
        "status": {"state": "ready"},
    }


def pod(name: str, *, group: str = "gpu", node: str = "node-1", gpus: int = 1,
        of: str = "galerne-a", **status: Any) -> Object:  # fmt: skip
    """A pod of the platform; ready unless a status is given."""
    kind = "head" if group == "head" else "worker"
    labels = {"ray.io/cluster": of, "ray.io/group": group, "ray.io/node-type": kind}
    spec = template(gpus)["spec"] | ({"nodeName": node} if node else {})
    ready = {"phase": "Running", "conditions": [condition("Ready", "True")]}
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": spec, "status": status or ready,
    }  # fmt: skip


def unschedulable(message: str = f"0/1 nodes are available: 1 Insufficient {GPU}.") -> Object:
    """The status of a pod that no node takes."""
    found = condition("PodScheduled", "False", "Unschedulable", message)
    return {"phase": "Pending", "conditions": [found]}


def waiting(reason: str, message: str = "", *, restarts: int = 0) -> Object:
    """The status of a pod whose container waits."""
    state = {"waiting": {"reason": reason, "message": message}}
    container = {"name": "ray", "ready": False, "restartCount": restarts, "image": "galerne:1",
                 "imageID": "", "state": state}  # fmt: skip
    return {
        "phase": "Pending",
        "conditions": [condition("PodScheduled", "True"), condition("Ready", "False")],
        "containerStatuses": [container],
    }


def node(name: str = "node-1", *, gpus: int = 2, ready: bool = True) -> Object:
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {}}, "spec": {},
        "status": {
            "allocatable": {"cpu": "64", GPU: str(gpus)},
            "conditions": [condition("Ready", "True" if ready else "False")],
        },
    }  # fmt: skip


def config_map(tree: Mapping[str, Any]) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "galerne-settings", "namespace": NAMESPACE},
            "data": {"settings.json": json.dumps(tree)}}  # fmt: skip


def secret(*keys: str) -> Object:
    empty = json.dumps({"version": 1, "keys": []})
    data = {key: base64.b64encode(empty.encode()).decode() for key in keys}
    metadata = {"name": "galerne-secrets", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def operator(version: str = "1.7.0") -> Object:
    labels = {"app.kubernetes.io/name": "kuberay-operator"}
    containers = [{"name": "kuberay-operator", "image": f"kuberay/operator:v{version}"}]
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "kuberay-operator", "namespace": NAMESPACE, "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": containers}}},
        "status": {"availableReplicas": 1},
    }  # fmt: skip


def snapshot(of: Object | None = None, *, clusters: tuple[Object, ...] = (),
             pods: tuple[Object, ...] = ()) -> Snapshot:  # fmt: skip
    """A snapshot of these objects, for the pure parts."""
    by_name = {each["metadata"]["name"]: each for each in clusters}
    return Snapshot("galerne", NAMESPACE, of, by_name, pods)


@dataclass
class Operated:
    """A platform on a test server. `steps` are done one after the other while commands sleep, as
    KubeRay's operator would, and after them `always` each time; time passes only so."""

    api: KubeApi
    steps: list[Callable[[], object]] = field(default_factory=list)
    always: Callable[[], object] | None = None
    now_s: float = 0.0

    def install(self, tree: Object | None = None, **config: Any) -> None:
        """A platform that is ready, with KubeRay and one node."""
        tree = tree or settings()
        self.api.put(operator())
        self.api.put(node())
        self.api.put(secret("internal-token", "metrics-token", "keys.json"))
        self.api.put(config_map(tree))
        self.api.put(cluster(**config))
        self.api.put(service(tree, **config))
        self.set_status(ready_status(1))
        self.api.put(pod("head", group="head", gpus=0))
        self.api.put(pod("worker-1"))

    @property
    def service(self) -> Object:
        return self.api.get("ray.io/v1", "RayService", "galerne", NAMESPACE)

    @property
    def cluster(self) -> Object:
        return self.api.get("ray.io/v1", "RayCluster", "galerne-a", NAMESPACE)

    @property
    def settings(self) -> Object:
        found = self.api.get("v1", "ConfigMap", "galerne-settings", NAMESPACE)
        tree: Object = json.loads(found["data"]["settings.json"])
        return tree

    def set_status(self, status: Object) -> None:
        """What the operator says; of the latest generation unless told."""
        value = copy.deepcopy(self.service)
        value["status"] = {**status, "observedGeneration": value["metadata"]["generation"]}
        self.api.put(value)

    def serve_once_back(self, image: str = "galerne:1") -> None:
        """What the operator does when it is to serve this image again."""
        head = self.service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]
        seen = self.service["status"].get("observedGeneration")
        is_seen = seen == self.service["metadata"]["generation"]
        if head["spec"]["containers"][0]["image"] == image and not is_seen:
            self.set_status(ready_status(1, cluster="galerne-c"))

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.steps:
            self.steps.pop(0)()
        elif self.always is not None:
            self.always()

    def run(self, *words: str) -> tuple[int, str]:
        """Exit status and all output of `galerne k8s WORDS`."""
        pacing = Pacing(clock=lambda: self.now_s, sleep=self.sleep, random=lambda: 1.0)
        # As wide as a table may get, so that no word is broken.
        result = CliRunner(env={"COLUMNS": "400"}).invoke(app, list(words), obj=pacing)
        if isinstance(result.exception, ServingError):
            error = result.exception
            text = f"{result.output}\n{error.message}\n{getattr(error, 'hint', '')}"
            return report(error), text
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    def run_json(self, *words: str) -> Any:
        """The document of a command that ends well."""
        pacing = Pacing(clock=lambda: self.now_s, sleep=self.sleep, random=lambda: 1.0)
        result = CliRunner().invoke(app, [*words, "--json"], obj=pacing)
        assert result.exit_code in (0, 1), result.output
        return json.loads(result.stdout)
