"""What clients may rely on: custom kinds, with defaults, unknown fields, status and generations."""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.failures import (
    Attempt,
    FieldConflict,
    Refusal,
    VersionExpired,
    to_error,
)
from serving.adapters.kube.resources import DEFINITIONS, Resource
from serving.adapters.kube.transport import Body
from serving.errors import ConfigError

Eventually = Callable[[Callable[[], Any]], Any]

PART = {
    "type": "object", "required": ["name"],
    "properties": {
        "name": {"type": "string"}, "count": {"type": "integer", "default": 1},
    },
}  # fmt: skip
PORT = {
    "type": "object", "required": ["port"],
    "properties": {
        "port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"},
        "name": {"type": "string"},
    },
}  # fmt: skip
SPEC = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "minimum": 0, "default": 3},
        "colour": {"type": "string"},
        "parts": {"type": "array", "items": PART},
        "ports": {
            "type": "array", "items": PORT, "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["port", "protocol"],
        },
    },
}  # fmt: skip
STATUS = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def definition(group: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"spec": SPEC, "status": STATUS}}
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
               "schema": {"openAPIV3Schema": schema}}  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"boxes.{group}"},
        "spec": {
            "group": group, "scope": "Namespaced", "versions": [version],
            "names": {"kind": "Box", "listKind": "BoxList", "plural": "boxes", "singular": "box"},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def boxes(client: KubeClient, eventually: Eventually) -> Iterator[Resource]:
    group = f"t{secrets.token_hex(4)}.galerne.dev"
    client.create(DEFINITIONS, definition(group))
    found = eventually(lambda: client.resource_for(f"{group}/v1", "Box"))
    eventually(lambda: client.list(found))
    yield found
    client.delete(DEFINITIONS, f"boxes.{group}")


@pytest.fixture
def box(boxes: Resource, namespace: str) -> Callable[..., dict[str, Any]]:
    def make(**spec: Any) -> dict[str, Any]:
        metadata = {"name": "a", "namespace": namespace}
        return {"apiVersion": boxes.api_version, "kind": "Box", "metadata": metadata, "spec": spec}

    return make


Box = Callable[..., dict[str, Any]]


def test_the_kind_is_found(boxes: Resource) -> None:
    assert (boxes.plural, boxes.kind, boxes.namespaced) == ("boxes", "Box", True)


def test_what_is_left_out_has_its_default(client: KubeClient, boxes: Resource, box: Box) -> None:
    made = client.create(boxes, box(parts=[{"name": "lid"}]), namespace=namespace_of(box))
    assert made["spec"] == {"size": 3, "parts": [{"name": "lid", "count": 1}]}
    again = client.replace(boxes, {**made, "spec": {"size": None}})
    assert again["spec"] == {"size": 3}


def namespace_of(box: Box) -> str:
    name: str = box()["metadata"]["namespace"]
    return name


def test_who_applies_does_not_own_defaults(client: KubeClient, boxes: Resource, box: Box) -> None:
    made = client.apply(boxes, box(colour="red"))
    assert made["spec"] == {"colour": "red", "size": 3}
    (manager,) = made["metadata"]["managedFields"]
    assert manager["fieldsV1"]["f:spec"] == {"f:colour": {}}
    # So they are anybody's to change.
    body = Body(box(size=5), "application/apply-patch+yaml")
    attempt = Attempt("patch", boxes, namespace_of(box), "a")
    changed = client.transport.call(attempt, query={"fieldManager": "other"}, body=body).document
    assert changed["spec"] == {"colour": "red", "size": 5}


def test_the_same_apply_again_changes_nothing(
    client: KubeClient, boxes: Resource, box: Box
) -> None:
    value = box(colour="red", parts=[{"name": "lid"}, {"name": "hinge", "count": 2}])
    first = client.apply(boxes, value)
    dry, again = client.apply(boxes, value, dry_run=True), client.apply(boxes, value)
    assert dry["spec"] == again["spec"] == first["spec"]
    assert again["metadata"]["generation"] == first["metadata"]["generation"] == 1


def test_what_is_no_longer_applied_has_its_default_again(
    client: KubeClient, boxes: Resource, box: Box
) -> None:
    assert client.apply(boxes, box(colour="red", size=5))["spec"] == {"colour": "red", "size": 5}
    assert client.apply(boxes, box(size=5))["spec"] == {"size": 5}
    assert client.apply(boxes, box())["spec"] == {"size": 3}


def test_unknown_fields_are_refused_or_dropped(
    client: KubeClient, boxes: Resource, box: Box
) -> None:
    wrong = box(colour="red", sice=5)
    for write in (
        lambda: client.create(boxes, wrong, namespace=namespace_of(box)),
        lambda: client.apply(boxes, wrong),
    ):
        with pytest.raises(ConfigError, match=r"spec\.sice") as caught:
            write()
        assert caught.value.code == "kube_invalid"
    attempt = Attempt("create", boxes, namespace_of(box))
    made = client.transport.call(attempt, body=Body(wrong)).document
    assert made["spec"] == {"colour": "red", "size": 3}


def test_wrong_values_are_refused_by_name(client: KubeClient, boxes: Resource, box: Box) -> None:
    for spec in ({"size": -1}, {"size": "large"}, {"parts": [{"count": 1}]}):
        with pytest.raises(ConfigError, match=r"size|parts") as caught:
            client.create(boxes, box(**spec), namespace=namespace_of(box))
        assert caught.value.code == "kube_invalid"
    with pytest.raises(ConfigError, match="size") as caught:
        client.apply(boxes, box(size="large"))
    assert caught.value.code == "kube_invalid"


def test_generations_count_specifications(client: KubeClient, boxes: Resource, box: Box) -> None:
    def generation(value: dict[str, Any]) -> int:
        found: int = value["metadata"]["generation"]
        return found

    place = {"namespace": namespace_of(box)}
    made = client.apply(boxes, box(size=1))
    assert generation(made) == 1
    labelled = client.merge(boxes, "a", {"metadata": {"labels": {"x": "y"}}}, **place)
    assert generation(labelled) == 1
    assert generation(client.merge(boxes, "a", {"spec": {"size": 2}}, **place)) == 2
    status = {"spec": {"size": 9}, "status": {"message": "full"}}
    told = client.merge(boxes, "a", status, **place, subresource="status")
    assert (generation(told), told["spec"]["size"]) == (2, 2)
    assert told["status"] == {"message": "full"}
    kept = client.merge(boxes, "a", {"status": {"message": "empty"}}, **place)
    assert kept["status"] == {"message": "full"}


def test_elements_of_a_list_with_keys_are_owned_one_by_one(
    client: KubeClient, boxes: Resource, box: Box
) -> None:
    attempt = Attempt("patch", boxes, namespace_of(box), "a")

    def applied(manager: str, *ports: dict[str, Any]) -> Any:
        body = Body(box(ports=list(ports)), "application/apply-patch+yaml")
        answer = client.transport.call(attempt, query={"fieldManager": manager}, body=body)
        return answer.document["spec"]["ports"]

    assert applied("one", {"port": 80}) == [{"port": 80, "protocol": "TCP"}]
    both = applied("two", {"port": 80, "protocol": "UDP", "name": "dns"})
    assert sorted(each["protocol"] for each in both) == ["TCP", "UDP"]
    with pytest.raises(FieldConflict) as caught:
        applied("one", {"port": 80}, {"port": 80, "protocol": "UDP", "name": "other"})
    (field,) = caught.value.fields
    assert field.startswith('.spec.ports[port=80,protocol="UDP"].name: conflict with "two"')


def test_a_new_default_is_read_from_old_objects(
    client: KubeClient, boxes: Resource, box: Box, eventually: Eventually
) -> None:
    before = client.create(boxes, box(), namespace=namespace_of(box))
    assert "colour" not in before["spec"]

    def coloured(value: dict[str, Any]) -> dict[str, Any]:
        changed = copy.deepcopy(value)
        schema = changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        schema["properties"]["spec"]["properties"]["colour"]["default"] = "grey"
        return changed

    name = f"boxes.{boxes.group}"
    original = client.get(DEFINITIONS, name)
    client.modify(DEFINITIONS, name, coloured)

    def read() -> dict[str, Any]:
        found = client.get(boxes, "a", namespace=namespace_of(box))
        assert found["spec"]["colour"] == "grey"
        return found

    try:
        assert eventually(read)["metadata"]["generation"] == 1
    finally:
        client.modify(DEFINITIONS, name, lambda value: {**value, "spec": original["spec"]})
        eventually(lambda: expect_no_colour(client, boxes, box))


def expect_no_colour(client: KubeClient, boxes: Resource, box: Box) -> None:
    assert "colour" not in client.get(boxes, "a", namespace=namespace_of(box))["spec"]


def test_a_watch_from_a_forgotten_version_says_so(
    client: KubeClient, boxes: Resource, namespace: str, eventually: Eventually
) -> None:
    # Of a kind that is younger than the version, so that no server can know it.
    attempt = Attempt("watch", boxes, namespace)
    query = {"watch": "true", "resourceVersion": "1", "timeoutSeconds": "2"}

    def expect_refusal() -> None:
        with pytest.raises(VersionExpired):
            read_first_event(client, attempt, query)

    eventually(expect_refusal)


def read_first_event(client: KubeClient, attempt: Attempt, query: dict[str, str]) -> None:
    """Servers say that a version is forgotten in the answer's code or in its first event."""
    with client.transport.stream(attempt, query=query, silence_s=10) as lines:
        status = json.loads(next(lines))["object"]
    raise to_error(Refusal(status["code"], status), attempt)
