"""Whether a second cluster finds its GPUs."""

from __future__ import annotations

from typing import Any

import kube_platform as made
import pytest

from serving.operations.surge import free_gpus, plan_surge


def spec(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rayClusterConfig": config, **more}


def test_free_is_what_pods_of_all_namespaces_leave() -> None:
    other = made.pod("other", node="a", gpus=3)
    done = made.pod("done", node="a", gpus=4, phase="Succeeded")
    waiting = made.pod("waiting", node="", gpus=8, **made.unschedulable())
    assert free_gpus([made.node("a", gpus=8)], [other, done, waiting]) == {"a": 5}


def test_nodes_that_take_no_pods_have_nothing_free() -> None:
    cordoned = made.node("a")
    cordoned["spec"]["unschedulable"] = True
    assert free_gpus([cordoned, made.node("b", ready=False)], []) == {}


def test_gpus_in_pieces_are_no_room_for_a_large_pod() -> None:
    nodes = [made.node("a", gpus=2), made.node("b", gpus=2)]
    large = made.cluster_config(gpus=4, replicas=1)
    surge = plan_surge(spec(large), None, nodes=nodes, pods=[])
    assert (surge.fits, surge.free_gpus, surge.homeless) == (False, 4, ("gpu (4 GPU)",))
    small = made.cluster_config(gpus=2, replicas=2)
    assert plan_surge(spec(small), None, nodes=nodes, pods=[]).fits


def test_the_new_cluster_is_as_large_as_the_old_one_has_grown() -> None:
    active = made.cluster(replicas=3, most=4)
    config = made.cluster_config(replicas=1, most=4)
    surge = plan_surge(spec(config), active, nodes=[made.node(gpus=2)], pods=[])
    assert (surge.num_pods, surge.num_gpus, len(surge.homeless)) == (3, 3, 1)
    bounded = made.cluster_config(replicas=1, most=2)
    assert plan_surge(spec(bounded), active, nodes=[made.node(gpus=2)], pods=[]).fits


def test_node_selectors_are_kept_to() -> None:
    config = made.cluster_config()
    config["workerGroupSpecs"][0]["template"]["spec"]["nodeSelector"] = {"gpu": "h100"}
    assert not plan_surge(spec(config), None, nodes=[made.node()], pods=[]).fits
    right = made.node()
    right["metadata"]["labels"] = {"gpu": "h100"}
    assert plan_surge(spec(config), None, nodes=[right], pods=[]).fits


def test_without_gpus_it_always_fits() -> None:
    assert plan_surge(spec(made.cluster_config(gpus=0)), None, nodes=[], pods=[]).fits


def test_an_incremental_upgrade_needs_a_share_at_a_time() -> None:
    config = made.cluster_config(replicas=4, most=4)
    strategy = {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {"maxSurgePercent": 50},
    }
    nodes = [made.node(gpus=2)]
    assert not plan_surge(spec(config), None, nodes=nodes, pods=[]).fits
    assert plan_surge(spec(config, upgradeStrategy=strategy), None, nodes=nodes, pods=[]).fits


def placed_on(node: dict[str, Any], **pod_spec: Any) -> bool:
    """Whether a GPU pod with this in its specification finds room on a node."""
    config = made.cluster_config()
    config["workerGroupSpecs"][0]["template"]["spec"] |= pod_spec
    return plan_surge(spec(config), None, nodes=[node], pods=[]).fits


def labelled(**labels: str) -> dict[str, Any]:
    node = made.node("a")
    node["metadata"]["labels"] = labels
    return node


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        (None, False),
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "gpu", "value": "h100"}, True),
        ({"key": "gpu", "value": "h100", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "value": "a100"}, False),
        ({"key": "gpu", "value": "h100", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_taints_are_tolerated(toleration: dict[str, str] | None, fits: bool) -> None:
    node = made.node()
    node["spec"]["taints"] = [
        {"key": "gpu", "value": "h100", "effect": "NoSchedule"},
        {"key": "slow", "effect": "PreferNoSchedule"},
    ]
    assert placed_on(node, tolerations=[toleration] if toleration else []) is fits


@pytest.mark.parametrize(
    ("terms", "fits"),
    [
        ([{"key": "zone", "operator": "In", "values": ["a", "b"]}], True),
        ([{"key": "zone", "operator": "NotIn", "values": ["a"]}], False),
        ([{"key": "gpu-gib", "operator": "Gt", "values": ["40"]}], True),
        ([{"key": "gpu-gib", "operator": "Lt", "values": ["80"]}], False),
        ([{"key": "zone", "operator": "Exists"}, {"key": "none", "operator": "Exists"}], False),
        ([], False),
    ],
)
def test_required_node_affinity_is_kept_to(terms: list[dict[str, Any]], fits: bool) -> None:
    def affinity(*alternatives: dict[str, Any]) -> dict[str, Any]:
        required = {"nodeSelectorTerms": list(alternatives)}
        return {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": required,
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}],
            }
        }

    node = labelled(zone="a", **{"gpu-gib": "80"})
    term = {"matchExpressions": terms}
    assert placed_on(node, affinity=affinity(term)) is fits
    by_name = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}
    assert placed_on(node, affinity=affinity(term, by_name))
    assert placed_on(node, affinity={"nodeAffinity": {}, "podAntiAffinity": {}})


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    status = {"hard": hard, "used": used or {}}
    return {"metadata": {"name": "team"}, "spec": {"hard": hard, **spec}, "status": status}


def over(*quotas: dict[str, Any]) -> tuple[str, ...]:
    """What quotas say against a head and two workers of one GPU, 8 CPU and 32Gi each."""
    config = made.cluster_config(replicas=2)
    nodes = [made.node(gpus=8)]
    return plan_surge(spec(config), None, nodes=nodes, pods=[], quotas=quotas).over_quota


def test_quotas_of_the_namespace_are_kept_to() -> None:
    assert over(quota({"requests.nvidia.com/gpu": "4"}, {"requests.nvidia.com/gpu": "2"})) == ()
    assert over(quota({"requests.nvidia.com/gpu": "4"}, {"requests.nvidia.com/gpu": "3"})) == (
        "quota team: requests.nvidia.com/gpu needs 2 more, 1 of 4 is left",
    )
    assert over(quota({"pods": "3"}), quota({"count/pods": "10"}, {"count/pods": "7"})) == ()
    (memory,) = over(quota({"requests.memory": "64Gi"}))
    assert "requests.memory needs 96Gi more, 64Gi of 64Gi" in memory
    assert len(over(quota({"cpu": "23", "limits.cpu": "20", "requests.storage": "1Gi"}))) == 2


def test_quotas_of_other_pods_say_nothing() -> None:
    hard = {"pods": "0"}
    assert over(quota(hard, scopes=["NotTerminating"]))
    assert not over(quota(hard, scopes=["BestEffort"]))
    high = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
    assert not over(quota(hard, scopeSelector={"matchExpressions": [high]}))
    none = {"scopeName": "PriorityClass", "operator": "DoesNotExist"}
    assert over(quota(hard, scopeSelector={"matchExpressions": [none]}))
