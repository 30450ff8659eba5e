"""What scaling a model changes."""

from __future__ import annotations

from typing import Any

import kube_platform as made
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kube_platform import MODEL

from serving.errors import ConfigError
from serving.operations.pool_bounds import Bounds, pods_needed
from serving.operations.scale_plan import (
    GroupChange,
    plan_groups,
    scaled_document,
    with_bounds,
    with_overrides,
)

BEFORE = made.settings(min_replicas=1, max_replicas=2)


def bounds(least: int, most: int) -> dict[str, Any]:
    return made.settings(min_replicas=least, max_replicas=most)


def planned(after: dict[str, Any], **config: Any) -> tuple[GroupChange, ...]:
    return plan_groups(made.cluster_config(**config), MODEL, BEFORE, after)


def test_bounds_that_agreed_go_on_agreeing() -> None:
    (change,) = planned(bounds(2, 6), least=1, most=2)
    assert change.after == Bounds(2, 6)
    (change,) = planned(bounds(1, 1), least=1, most=2)
    assert change.after == Bounds(1, 1)


def test_bounds_that_somebody_chose_only_move_where_they_must() -> None:
    (same,) = planned(bounds(1, 6), least=0, most=8)
    assert same.before == same.after == Bounds(0, 8)
    (change,) = planned(bounds(1, 9), least=0, most=8)
    assert change.after == Bounds(0, 9)


def test_pods_with_room_for_several_replicas_are_fewer() -> None:
    (change,) = planned(bounds(1, 6), least=1, most=1, gpus=4)
    assert change.after == Bounds(1, 2)


def test_other_groups_are_left_alone() -> None:
    config = made.cluster_config()
    config["workerGroupSpecs"].append({"groupName": "cpu", "minReplicas": 1, "maxReplicas": 1})
    assert [each.group for each in plan_groups(config, MODEL, BEFORE, bounds(1, 5))] == ["gpu"]


@settings(deadline=None)  # machines under load stall at random
@given(st.integers(0, 20), st.integers(1, 20), st.integers(0, 30), st.integers(1, 30))
def test_no_plan_ends_with_too_little_room(least: int, more: int, low: int, high: int) -> None:
    low = min(low, high)
    config = made.cluster_config(least=low, most=high, replicas=low)
    after = bounds(least, least + more)
    changed = with_bounds(config, plan_groups(config, MODEL, BEFORE, after))
    (group,) = changed["workerGroupSpecs"]
    assert group["maxReplicas"] >= pods_needed(group, after).most
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_replicas_that_the_autoscaler_ordered_stay() -> None:
    config = made.cluster_config(replicas=4, most=8)
    wide = with_bounds(config, (GroupChange("gpu", Bounds(1, 8), Bounds(1, 6)),))
    assert wide["workerGroupSpecs"][0]["replicas"] == 4
    narrow = with_bounds(config, (GroupChange("gpu", Bounds(1, 8), Bounds(1, 3)),))
    assert narrow["workerGroupSpecs"][0]["replicas"] == 3


def test_only_numbers_change_in_serve_s_configuration() -> None:
    text = made.serve_document(BEFORE)
    changed = yaml.safe_load(scaled_document(text, MODEL, bounds(2, 6)))
    original = yaml.safe_load(text)
    config = {"min_replicas": 2, "max_replicas": 6}
    original["applications"][1]["deployments"][0]["autoscaling_config"] = config
    assert changed == original


def test_gateways_learn_that_a_model_may_have_no_replica() -> None:
    changed = yaml.safe_load(scaled_document(made.serve_document(BEFORE), MODEL, bounds(0, 2)))
    models = changed["applications"][0]["args"]["settings"]["models"]
    assert models[MODEL]["scaling"]["min_replicas"] == 0


def test_what_does_not_change_keeps_its_text() -> None:
    text = "# by hand\n" + made.serve_document(BEFORE)
    assert scaled_document(text, MODEL, BEFORE) is text


def test_a_model_that_is_not_deployed_is_told() -> None:
    with pytest.raises(ConfigError, match="no deployment"):
        scaled_document("applications: []", MODEL, BEFORE)


def test_settings_are_changed_in_a_copy() -> None:
    after = with_overrides(BEFORE, MODEL, {"scaling.max_replicas": 9})
    assert after["models"][MODEL]["scaling"]["max_replicas"] == 9
    assert BEFORE["models"][MODEL]["scaling"]["max_replicas"] == 2
