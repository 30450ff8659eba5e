"""What clients may rely on: the same tests on the test server and on a real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract_objects import config_map, pod

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.failures import (
    Attempt,
    BudgetForbids,
    Conflict,
    FieldConflict,
    KindMissing,
    NamespaceMissing,
    ObjectMissing,
)
from serving.adapters.kube.resources import CONFIG_MAPS, PODS, SECRETS, Resource
from serving.adapters.kube.transport import Body
from serving.adapters.kube.watching import Change, watch
from serving.errors import ConfigError

BUDGETS = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")


@pytest.fixture
def made(client: KubeClient, namespace: str) -> Callable[..., dict[str, Any]]:
    def make(name: str = "a", **data: str) -> dict[str, Any]:
        return client.create(CONFIG_MAPS, config_map(name, namespace, **data), namespace=namespace)

    return make


def test_the_server_gives_identity_and_version(made: Callable[..., dict[str, Any]]) -> None:
    metadata = made(x="1")["metadata"]
    assert metadata["uid"]
    assert metadata["creationTimestamp"].endswith("Z")
    assert int(metadata["resourceVersion"]) > 0
    (manager,) = metadata["managedFields"]
    assert (manager["manager"], manager["operation"]) == ("galerne", "Update")
    assert manager["fieldsV1"]["f:data"]["f:x"] == {}


def test_what_is_not_there(client: KubeClient, namespace: str) -> None:
    with pytest.raises(ObjectMissing, match="no configmaps 'none'"):
        client.get(CONFIG_MAPS, "none", namespace=namespace)
    assert client.find(CONFIG_MAPS, "none", namespace=namespace) is None
    client.delete(CONFIG_MAPS, "none", namespace=namespace)
    with pytest.raises(NamespaceMissing):
        client.create(CONFIG_MAPS, config_map("a", "galerne-none"), namespace="galerne-none")
    with pytest.raises(NamespaceMissing):
        client.apply(CONFIG_MAPS, config_map("a", "galerne-none"))


def test_a_kind_that_is_not_there(client: KubeClient, namespace: str) -> None:
    unknown = Resource("none.galerne.dev/v1", "None", "nones")
    with pytest.raises(KindMissing):
        client.list(unknown, namespace=namespace)
    with pytest.raises(KindMissing):
        client.resource_for("none.galerne.dev/v1", "None")
    with pytest.raises(KindMissing):
        client.resource_for("v1", "None")
    assert client.resource_for("v1", "ConfigMap") == CONFIG_MAPS


def test_a_name_is_taken_once(made: Callable[..., dict[str, Any]]) -> None:
    made()
    with pytest.raises(Conflict):
        made()


def test_an_update_of_an_old_version_is_refused(
    client: KubeClient, made: Callable[..., dict[str, Any]]
) -> None:
    old = made(x="1")
    new = client.replace(CONFIG_MAPS, {**old, "data": {"x": "2"}})
    assert new["metadata"]["uid"] == old["metadata"]["uid"]
    with pytest.raises(Conflict):
        client.replace(CONFIG_MAPS, {**old, "data": {"x": "3"}})


def test_a_write_of_nothing_makes_no_version(
    client: KubeClient, namespace: str, made: Callable[..., dict[str, Any]]
) -> None:
    old = made(x="1")
    assert client.replace(CONFIG_MAPS, old)["metadata"] == old["metadata"]
    again = client.merge(CONFIG_MAPS, "a", {"data": {"x": "1"}}, namespace=namespace)
    assert again["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]


def test_a_merge_patch_removes_with_null(
    client: KubeClient, namespace: str, made: Callable[..., dict[str, Any]]
) -> None:
    made(x="1", y="2")
    patch = {"data": {"x": None, "z": "3"}}
    assert client.merge(CONFIG_MAPS, "a", patch, namespace=namespace)["data"] == {
        "y": "2", "z": "3"
    }  # fmt: skip


def test_a_json_patch_tests(
    client: KubeClient, namespace: str, made: Callable[..., dict[str, Any]]
) -> None:
    made(x="1")
    attempt = Attempt("patch", CONFIG_MAPS, namespace, "a")

    def patched(*operations: dict[str, str]) -> Any:
        body = Body(list(operations), "application/json-patch+json")
        return client.transport.call(attempt, body=body).document["data"]

    assert patched({"op": "add", "path": "/data/y", "value": "2"}) == {"x": "1", "y": "2"}
    with pytest.raises(ConfigError) as caught:
        patched({"op": "test", "path": "/data/x", "value": "5"})
    assert caught.value.code == "kube_invalid"


def test_apply_makes_changes_and_removes(client: KubeClient, namespace: str) -> None:
    assert client.apply(CONFIG_MAPS, config_map("a", namespace, x="1", y="2"))["data"]
    client.merge(CONFIG_MAPS, "a", {"metadata": {"labels": {"l": "1"}}}, namespace=namespace)
    after = client.apply(CONFIG_MAPS, config_map("a", namespace, y="3"))
    assert after["data"] == {"y": "3"}
    assert after["metadata"]["labels"] == {"l": "1"}
    version = after["metadata"]["resourceVersion"]
    same = client.apply(CONFIG_MAPS, config_map("a", namespace, y="3"))
    assert same["metadata"]["resourceVersion"] == version


def test_a_dry_run_changes_nothing(client: KubeClient, namespace: str) -> None:
    client.apply(CONFIG_MAPS, config_map("a", namespace, x="1"))
    dry = client.apply(CONFIG_MAPS, config_map("a", namespace, x="2"), dry_run=True)
    assert dry["data"] == {"x": "2"}
    assert client.get(CONFIG_MAPS, "a", namespace=namespace)["data"] == {"x": "1"}
    client.apply(CONFIG_MAPS, config_map("b", namespace), dry_run=True)
    assert client.find(CONFIG_MAPS, "b", namespace=namespace) is None


def test_fields_of_others_conflict_until_forced(client: KubeClient, namespace: str) -> None:
    attempt = Attempt("patch", CONFIG_MAPS, namespace, "a")
    body = Body(config_map("a", namespace, x="1", y="1"), "application/apply-patch+yaml")
    client.transport.call(attempt, query={"fieldManager": "helm"}, body=body)
    # The same value is no conflict: both own it.
    client.apply(CONFIG_MAPS, config_map("a", namespace, x="1"))
    with pytest.raises(FieldConflict) as caught:
        client.apply(CONFIG_MAPS, config_map("a", namespace, x="2"))
    (field,) = caught.value.fields
    assert ".data.x" in field
    assert "helm" in field
    forced = client.apply(CONFIG_MAPS, config_map("a", namespace, x="2"), force=True)
    assert forced["data"] == {"x": "2", "y": "1"}
    with pytest.raises(FieldConflict):
        client.transport.call(attempt, query={"fieldManager": "helm"}, body=body)


def test_elements_of_a_keyed_list_have_their_own_owners(client: KubeClient, namespace: str) -> None:
    value = pod("a", namespace)
    client.apply(PODS, value)
    containers = [{"name": "main", "image": "none:2"}]
    attempt = Attempt("patch", PODS, namespace, "a")
    body = Body({**value, "spec": {"containers": containers}}, "application/apply-patch+yaml")
    query = {"fieldManager": "other", "force": "true"}
    changed = client.transport.call(attempt, query=query, body=body).document
    assert [each["image"] for each in changed["spec"]["containers"]] == ["none:2"]
    with pytest.raises(FieldConflict, match="image"):
        client.apply(PODS, value)


def test_a_misspelt_field_is_refused(client: KubeClient, namespace: str) -> None:
    wrong = config_map("a", namespace) | {"dota": {"x": "1"}}
    with pytest.raises(ConfigError, match="dota") as caught:
        client.apply(CONFIG_MAPS, wrong)
    assert caught.value.code == "kube_invalid"
    with pytest.raises(ConfigError, match="data"):
        client.apply(CONFIG_MAPS, config_map("a", namespace) | {"data": {"x": 1}})
    with pytest.raises(ConfigError, match="dota"):
        client.create(CONFIG_MAPS, wrong, namespace=namespace)


def test_selectors(client: KubeClient, namespace: str) -> None:
    for name, labels in (("a", {"app": "x"}), ("b", {"app": "y", "old": "1"}), ("c", {})):
        client.create(PODS, pod(name, namespace, **labels), namespace=namespace)

    def names(**selection: str) -> list[str]:
        found = client.list(PODS, namespace=namespace, **selection).items
        return [each["metadata"]["name"] for each in found]

    assert names() == ["a", "b", "c"]
    assert names(labels="app=x") == ["a"]
    assert names(labels="app in (x,y),!old") == ["a"]
    assert names(labels="app notin (x)") == ["b", "c"]
    assert names(labels="app") == ["a", "b"]
    assert names(fields="metadata.name=b") == ["b"]
    assert names(fields="spec.nodeName=none") == []
    assert client.list(PODS, namespace=namespace).items[0]["kind"] == "Pod"
    with pytest.raises(ConfigError):
        names(fields="spec.none=1")


def test_a_list_comes_in_pages(client: KubeClient, namespace: str) -> None:
    for number in range(5):
        client.create(SECRETS, config_map(f"s{number}", namespace) | {"kind": "Secret"},
                      namespace=namespace)  # fmt: skip
    attempt = Attempt("list", SECRETS, namespace)
    page = client.transport.call(attempt, query={"limit": "2"}).document
    assert len(page["items"]) == 2
    assert page["metadata"]["continue"]
    page_size, client.page_size = client.page_size, 2
    try:
        listing = client.list(SECRETS, namespace=namespace)
    finally:
        client.page_size = page_size
    assert [each["metadata"]["name"] for each in listing.items] == [f"s{n}" for n in range(5)]


def test_status_is_written_on_its_own(client: KubeClient, namespace: str) -> None:
    client.create(PODS, pod("a", namespace), namespace=namespace)
    status = {"status": {"message": "hello"}}
    client.merge(PODS, "a", status, namespace=namespace)
    before = client.get(PODS, "a", namespace=namespace).get("status", {})
    assert "message" not in before
    client.merge(PODS, "a", status, namespace=namespace, subresource="status")
    assert client.get(PODS, "a", namespace=namespace)["status"]["message"] == "hello"


def test_a_delete_may_name_the_one_it_means(
    client: KubeClient, namespace: str, made: Callable[..., dict[str, Any]]
) -> None:
    made()
    with pytest.raises(Conflict):
        client.delete(CONFIG_MAPS, "a", namespace=namespace, uid="another")
    client.delete(CONFIG_MAPS, "a", namespace=namespace)
    assert client.find(CONFIG_MAPS, "a", namespace=namespace) is None


def test_finalizers_hold_an_object(
    client: KubeClient, namespace: str, made: Callable[..., dict[str, Any]]
) -> None:
    made()
    held = {"metadata": {"finalizers": ["galerne.dev/hold"]}}
    client.merge(CONFIG_MAPS, "a", held, namespace=namespace)
    client.delete(CONFIG_MAPS, "a", namespace=namespace)
    assert client.get(CONFIG_MAPS, "a", namespace=namespace)["metadata"]["deletionTimestamp"]
    client.merge(CONFIG_MAPS, "a", {"metadata": {"finalizers": None}}, namespace=namespace)
    assert client.find(CONFIG_MAPS, "a", namespace=namespace) is None


def test_an_eviction_asks_the_budget(client: KubeClient, namespace: str) -> None:
    client.create(PODS, pod("a", namespace, app="x"), namespace=namespace)
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "b", "namespace": namespace},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
    }
    client.create(BUDGETS, budget, namespace=namespace)
    running = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    client.merge(PODS, "a", {"status": running}, namespace=namespace, subresource="status")
    with pytest.raises(BudgetForbids):
        client.evict("a", namespace=namespace)
    client.delete(BUDGETS, "b", namespace=namespace)
    client.evict("a", namespace=namespace)
    client.evict("none", namespace=namespace)


def test_a_watch_tells_what_is_there_and_what_happens(
    client: KubeClient, namespace: str, made: Callable[..., dict[str, Any]]
) -> None:
    made("a", x="1")
    seen = []
    for event in watch(client, CONFIG_MAPS, namespace=namespace, timeout_s=30):
        names = [each["metadata"]["name"] for each in event.objects]
        seen.append((event.change, names))
        if event.change is Change.LISTED:
            assert "a" in names
            made("b")
        elif names == ["b"] and event.change is Change.CHANGED:
            client.delete(CONFIG_MAPS, "b", namespace=namespace)
        elif names == ["b"]:
            break
    ours = [each for each in seen[1:] if each[1] == ["b"]]
    assert ours == [(Change.CHANGED, ["b"]), (Change.GONE, ["b"])]


def test_a_watch_with_a_selector_sees_objects_leave_it(client: KubeClient, namespace: str) -> None:
    client.create(PODS, pod("a", namespace, app="x"), namespace=namespace)
    events = watch(client, PODS, namespace=namespace, labels="app=x", timeout_s=30)
    assert next(events).change is Change.LISTED
    client.merge(PODS, "a", {"metadata": {"labels": {"app": "y"}}}, namespace=namespace)
    assert next(each for each in events if each.change is Change.GONE)


def test_a_watch_ends_by_itself(client: KubeClient, namespace: str) -> None:
    (listed,) = watch(client, CONFIG_MAPS, namespace=namespace, labels="none", timeout_s=1)
    assert listed.change is Change.LISTED


def test_the_server_tells_its_time(client: KubeClient, namespace: str) -> None:
    client.list(CONFIG_MAPS, namespace=namespace)
    assert client.server_time is not None
