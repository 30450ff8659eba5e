"""Whether a second cluster finds its GPUs."""

from __future__ import annotations

from typing import Any

import kube_platform as made

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
