"""What clients may rely on: who may do what, and how they are told that they may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from contract_objects import config_map, pod

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.connection import connect
from serving.adapters.kube.failures import Attempt
from serving.adapters.kube.resources import CONFIG_MAPS, NODES, PODS, SECRETS, Resource
from serving.adapters.kube.transport import Body
from serving.errors import ConfigError

RBAC = "rbac.authorization.k8s.io"
ROLES = Resource(f"{RBAC}/v1", "Role", "roles")
BINDINGS = Resource(f"{RBAC}/v1", "RoleBinding", "rolebindings")
ACCOUNTS = Resource("v1", "ServiceAccount", "serviceaccounts")

Rule = dict[str, list[str]]
Limited = Callable[..., KubeClient]


def allow(*verbs: str, resource: str = "configmaps", group: str = "") -> Rule:
    return {"verbs": list(verbs), "resources": [resource], "apiGroups": [group]}


@pytest.fixture
def limited(
    kubeconfig: Path, client: KubeClient, namespace: str, tmp_path: Path,
    eventually: Callable[[Callable[[], Any]], Any],
) -> Iterator[Limited]:  # fmt: skip
    """Makes a client that may do what some rules allow in the namespace, and read one ConfigMap."""
    opened = []

    def make(*rules: Rule) -> KubeClient:
        bind(client, namespace, (*rules, {**allow("get"), "resourceNames": ["probe"]}))
        file = tmp_path / "limited"
        file.write_text(yaml.safe_dump(with_token(kubeconfig, token_of(client, namespace))))
        connection = connect(environ={"KUBECONFIG": str(file)})
        opened.append(connection)
        found = KubeClient(connection)
        eventually(lambda: found.find(CONFIG_MAPS, "probe", namespace=namespace))
        try:
            found.list(SECRETS)
        except ConfigError:
            return found
        pytest.skip("this server lets everybody do everything")

    yield make
    for connection in opened:
        connection.api.rest_client.close()


def bind(client: KubeClient, namespace: str, rules: tuple[Rule, ...]) -> None:
    """An account `limited` with a role of these rules."""
    metadata = {"name": "limited"}
    client.create(
        ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        namespace=namespace,
    )  # fmt: skip
    role = {"apiVersion": ROLES.api_version, "kind": "Role", "metadata": metadata,
            "rules": list(rules)}  # fmt: skip
    client.create(ROLES, role, namespace=namespace)
    binding = {
        "apiVersion": BINDINGS.api_version, "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "limited"},
        "subjects": [{"kind": "ServiceAccount", "name": "limited", "namespace": namespace}],
    }  # fmt: skip
    client.create(BINDINGS, binding, namespace=namespace)


def token_of(client: KubeClient, namespace: str) -> str:
    attempt = Attempt("create", ACCOUNTS, namespace, "limited", "token")
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
               "spec": {"expirationSeconds": 600}}  # fmt: skip
    token: str = client.transport.call(attempt, body=Body(request)).document["status"]["token"]
    return token


def with_token(kubeconfig: Path, token: str) -> dict[str, Any]:
    """The kubeconfig with this token in the place of its credentials."""
    config: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    return config


def refusal(call: Callable[[], object]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.code == "kube_forbidden"
    return caught.value


def test_a_right_that_is_missing_is_named(limited: Limited, namespace: str) -> None:
    one = limited()
    error = refusal(lambda: one.list(SECRETS, namespace=namespace))
    assert error.message == f"you may not list secrets in namespace {namespace!r}"
    assert error.hint == (
        "a role needs apiGroups [''], resources ['secrets'], verbs ['list'], in namespace "
        f"{namespace!r}"
    )
    error = refusal(lambda: one.get(CONFIG_MAPS, "another", namespace=namespace))
    assert error.message == f"you may not get configmaps 'another' in namespace {namespace!r}"


def test_an_apply_that_may_change_but_not_make(
    client: KubeClient, limited: Limited, namespace: str
) -> None:
    one, value = limited(allow("get", "patch")), config_map("a", namespace, x="1")
    for is_dry in (True, False):
        error = refusal(lambda is_dry=is_dry: one.apply(CONFIG_MAPS, value, dry_run=is_dry))  # type: ignore[misc]
        assert error.message.startswith("you may not create configmaps 'a'")
        assert "verbs ['create', 'patch']" in error.hint
    client.create(CONFIG_MAPS, config_map("a", namespace), namespace=namespace)
    assert one.apply(CONFIG_MAPS, value)["data"] == {"x": "1"}


def test_an_apply_that_may_make_but_not_change(limited: Limited, namespace: str) -> None:
    one = limited(allow("get", "create", "update"))
    one.create(CONFIG_MAPS, config_map("b", namespace), namespace=namespace)
    error = refusal(lambda: one.apply(CONFIG_MAPS, config_map("a", namespace)))
    assert error.message.startswith("you may not patch configmaps 'a'")


def test_a_part_of_an_object_has_rights_of_its_own(
    client: KubeClient, limited: Limited, namespace: str
) -> None:
    one = limited(allow("get", "delete", "patch", resource="pods"))
    client.create(PODS, pod("a", namespace), namespace=namespace)
    error = refusal(lambda: one.evict("a", namespace=namespace))
    assert error.message.startswith("you may not create pods/eviction 'a'")
    assert "resources ['pods/eviction']" in error.hint
    status = {"status": {"message": "hello"}}
    error = refusal(lambda: one.merge(PODS, "a", status, namespace=namespace, subresource="status"))
    assert error.message.startswith("you may not patch pods/status 'a'")


def test_a_role_of_a_namespace_says_nothing_of_the_cluster(limited: Limited) -> None:
    one = limited(allow("*", resource="*", group="*"))
    error = refusal(lambda: one.list(NODES))
    assert error.message == "you may not list nodes"
    assert error.hint.endswith("on the whole cluster")
    refusal(lambda: one.list(CONFIG_MAPS))


def test_rights_come_before_kinds(limited: Limited, namespace: str) -> None:
    unknown = Resource("none.galerne.dev/v1", "None", "nones")
    error = refusal(lambda: limited().list(unknown, namespace=namespace))
    assert error.message.startswith("you may not list nones.none.galerne.dev")


def test_kinds_may_be_asked_for_by_anybody(limited: Limited) -> None:
    assert limited().resource_for("v1", "ConfigMap") == CONFIG_MAPS


def test_a_namespace_that_may_not_be_looked_at_is_taken_for_granted(limited: Limited) -> None:
    assert limited().has_namespace("galerne-none")


def test_a_token_that_nobody_issued(kubeconfig: Path, tmp_path: Path) -> None:
    file = tmp_path / "forged"
    file.write_text(yaml.safe_dump(with_token(kubeconfig, "forged")))
    connection = connect(environ={"KUBECONFIG": str(file)})
    with pytest.raises(ConfigError, match="does not know you") as caught:
        KubeClient(connection).get(CONFIG_MAPS, "a", namespace="default")
    assert caught.value.code == "kube_unauthorized"
    connection.api.rest_client.close()
