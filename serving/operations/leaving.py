"""Which pods are about to go, from what Kubernetes says of them and of their nodes. Pure.

A pod that goes still works for a while, the longest stream's time if its grace period allows. New
requests do better elsewhere.

Source: taints as documented by Kubernetes ("Taints and Tolerations", "Well-Known Labels,
Annotations and Taints"), Cluster Autoscaler (`utils/taints`), Karpenter (v1 `DisruptedTaintKey`,
before it `disruption`), AWS Node Termination Handler and GKE ("Spot VMs", graceful termination).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LEAVING_TAINTS = {
    "ToBeDeletedByClusterAutoscaler": "its node is being removed by the Cluster Autoscaler",
    "karpenter.sh/disrupted": "its node is being removed by Karpenter",
    "karpenter.sh/disruption": "its node is being removed by Karpenter",
    "cloud.google.com/impending-node-termination": "its node is being reclaimed",
    "aws-node-termination-handler/spot-itn": "its node is being reclaimed",
    "aws-node-termination-handler/asg-lifecycle-termination": "its node is being removed",
    "aws-node-termination-handler/scheduled-maintenance": "its node awaits maintenance",
    "node.kubernetes.io/out-of-service": "its node is out of service",
    "node.cloudprovider.kubernetes.io/shutdown": "its node is shut down",
}
"""Those of nodes that go, with the reason in words; a node that is only suspected of being
superfluous (`DeletionCandidateOfClusterAutoscaler`), or not ready, may stay."""

Object = Mapping[str, Any]


def leaving_hosts(pods: Iterable[Object], nodes: Mapping[str, Object]) -> dict[str, str]:
    """By address the pods that go, each with the reason.

    Args:
        pods: Pod objects as the API shows them.
        nodes: Node objects by name; a pod on a node that is not among them stays.
    """
    reasons = {name: reason for name, node in nodes.items() if (reason := node_leaves(node))}
    leaving = {}
    for pod in pods:
        address = pod.get("status", {}).get("podIP")
        reason = _pod_leaves(pod) or reasons.get(pod.get("spec", {}).get("nodeName", ""))
        if address and reason:
            leaving[address] = reason
    return leaving


def node_leaves(node: Object) -> str | None:
    """Why a node goes, `None` if it stays.

    >>> node_leaves({"spec": {"unschedulable": True}})
    'its node is cordoned'
    >>> node_leaves({"spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}})
    """
    spec = node.get("spec", {})
    if node.get("metadata", {}).get("deletionTimestamp"):
        return "its node is being deleted"
    for taint in spec.get("taints") or ():
        if reason := LEAVING_TAINTS.get(taint.get("key", "")):
            return reason
    return "its node is cordoned" if spec.get("unschedulable") else None


def _pod_leaves(pod: Object) -> str | None:
    return "its pod is being ended" if pod.get("metadata", {}).get("deletionTimestamp") else None
