"""Which pods are about to go."""

from __future__ import annotations

from typing import Any

import pytest

from serving.operations.leaving import LEAVING_TAINTS, leaving_hosts, node_leaves


def pod(address: str | None, node: str | None, *, ends: bool = False) -> dict[str, Any]:
    metadata = {"deletionTimestamp": "2026-11-23T02:00:00Z"} if ends else {}
    spec = {"nodeName": node} if node else {}
    return {"metadata": metadata, "spec": spec, "status": {"podIP": address} if address else {}}


CORDONED = {"spec": {"unschedulable": True}}
TAINTED = {"spec": {"taints": [{"key": "karpenter.sh/disrupted", "effect": "NoSchedule"}]}}


def test_pods_of_leaving_nodes_and_ending_pods_go() -> None:
    pods = [
        pod("10.0.0.1", "a"),
        pod("10.0.0.2", "b"),
        pod("10.0.0.3", "c"),
        pod("10.0.0.4", "c", ends=True),
        pod("10.0.0.5", "unknown"),
        pod(None, "a"),
        pod("10.0.0.6", None),
    ]
    assert leaving_hosts(pods, {"a": CORDONED, "b": TAINTED, "c": {}}) == {
        "10.0.0.1": "its node is cordoned",
        "10.0.0.2": "its node is being removed by Karpenter",
        "10.0.0.4": "its pod is being ended",
    }


@pytest.mark.parametrize("key", LEAVING_TAINTS)
def test_the_reason_is_the_taints(key: str) -> None:
    """A cordon often comes with it and says less."""
    node = {"spec": {"unschedulable": True, "taints": [{"key": "x"}, {"key": key}]}}
    assert node_leaves(node) == LEAVING_TAINTS[key]


@pytest.mark.parametrize(
    "node",
    [
        {},
        {"spec": {"taints": None}},
        {"spec": {"taints": [{"key": "DeletionCandidateOfClusterAutoscaler"}]}},
        {"spec": {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]}},
        {"spec": {"unschedulable": False}},
    ],
)
def test_others_stay(node: dict[str, Any]) -> None:
    assert node_leaves(node) is None


def test_a_deleted_node_goes() -> None:
    assert node_leaves({"metadata": {"deletionTimestamp": "2026-11-23T02:00:00Z"}})
