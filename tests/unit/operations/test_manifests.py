"""What objects need, and how a diff shows them."""

from __future__ import annotations

import base64

import kube_platform as made

from serving.operations.draining import drain_order, has_head
from serving.operations.manifests import difference, in_order, needed_secrets
from serving.operations.snapshot import name_of, secret_name


def test_secrets_are_found_wherever_pods_name_them() -> None:
    service = made.service()
    spec = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    reference = {"name": "redis", "key": "password"}
    optional = {"name": "maybe", "key": "x", "optional": True}
    spec["containers"][0]["env"] = [
        {"name": "A", "valueFrom": {"secretKeyRef": reference}},
        {"name": "B", "valueFrom": {"secretKeyRef": optional}},
        {"name": "C", "value": "plain"},
    ]
    spec["containers"][0]["envFrom"] = [{"secretRef": {"name": "hf"}}, {"configMapRef": {}}]
    spec["volumes"].append({"name": "tls", "secret": {"secretName": "tls"}})
    spec["imagePullSecrets"] = [{"name": "registry"}]
    password = {"valueFrom": {"secretKeyRef": {"name": "gcs", "key": "password"}}}
    service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"] = {
        "redisAddress": "redis:6379", "redisPassword": password, "redisUsername": {"value": "ray"},
    }  # fmt: skip
    assert needed_secrets(service) == {
        "galerne-secrets", "redis", "hf", "tls", "registry", "gcs"
    }  # fmt: skip


def test_the_secret_of_keys_is_the_one_that_pods_mount() -> None:
    service = made.service()
    for group in (
        service["spec"]["rayClusterConfig"]["headGroupSpec"],
        *service["spec"]["rayClusterConfig"]["workerGroupSpecs"],
    ):
        (source,) = group["template"]["spec"]["volumes"][0]["projected"]["sources"]
        source["secret"]["name"] = "from-vault"
    assert secret_name(made.snapshot(service)) == "from-vault"
    assert secret_name(made.snapshot()) == "galerne-secrets"


def test_a_diff_never_shows_a_secret() -> None:
    before = made.secret("internal-token")
    after = made.secret("internal-token")
    after["data"]["internal-token"] = base64.b64encode(b"very secret").decode()
    text = difference(before, after)
    assert "(11 bytes)" in text
    assert after["data"]["internal-token"] not in text


def test_a_service_comes_after_what_it_needs() -> None:
    objects = [made.service(), made.config_map({}), made.node(), made.secret("a")]
    kinds = [each["kind"] for each in in_order(objects)]
    assert kinds == ["Secret", "ConfigMap", "Node", "RayService"]


def test_workers_go_before_the_head() -> None:
    pods = [made.pod("head", group="head"), made.pod("b"), made.pod("a"), made.node()]
    assert [name_of(each) for each in drain_order(pods)] == ["a", "b", "head"]
    assert has_head(pods)
    assert not has_head(pods[1:])
