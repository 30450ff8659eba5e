"""The client against a server that fails in every way it can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_api.faults import Fault
from kube_api.server import KubeApi, running_kube_api

from serving.adapters.kube.client import KubeClient
from serving.adapters.kube.connection import connect
from serving.adapters.kube.failures import (
    Attempt,
    Conflict,
    KindMissing,
    Refusal,
    to_error,
    to_refusal,
)
from serving.adapters.kube.resources import CONFIG_MAPS, RAY_SERVICES
from serving.adapters.kube.transport import Pacing
from serving.adapters.kube.watching import Change, Event, watch
from serving.errors import ClusterError, ConfigError, TimedOut


class Time:
    """A clock that moves only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def pacing(self) -> Pacing:
        return Pacing(clock=lambda: self.now_s, sleep=self.sleep, random=lambda: 1.0)


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with running_kube_api() as api:
        yield api


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def client(api: KubeApi, time: Time, tmp_path: Path) -> Iterator[KubeClient]:
    kubeconfig = api.write_kubeconfig(tmp_path / "config")
    connection = connect(environ={"KUBECONFIG": str(kubeconfig)})
    yield KubeClient(connection, timeout_s=30, pacing=time.pacing())
    connection.api.rest_client.close()


def config_map(**data: str) -> dict[str, Any]:
    metadata = {"name": "a", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def get(client: KubeClient) -> dict[str, Any]:
    data: dict[str, Any] = client.get(CONFIG_MAPS, "a", namespace="default")["data"]
    return data


def test_a_busy_server_is_asked_again_when_it_says(
    api: KubeApi, client: KubeClient, time: Time
) -> None:
    api.put(config_map(x="1"))
    api.faults.order(Fault.TOO_MANY_REQUESTS, times=2, retry_after_s=3)
    assert get(client) == {"x": "1"}
    assert time.slept == [3, 3]


def test_a_failing_server_is_asked_again_ever_more_slowly(
    api: KubeApi, client: KubeClient, time: Time
) -> None:
    api.put(config_map(x="1"))
    api.faults.order(Fault.INTERNAL_ERROR, times=3)
    assert get(client) == {"x": "1"}
    assert time.slept == [0.2, 0.4, 0.8]


def test_it_gives_up_in_time(api: KubeApi, client: KubeClient, time: Time) -> None:
    api.faults.order(Fault.INTERNAL_ERROR, times=1000)
    with pytest.raises(ClusterError, match="etcdserver") as caught:
        get(client)
    assert caught.value.code == "kube_failed"
    assert time.now_s <= 30
    api.faults.order(Fault.TOO_MANY_REQUESTS, verb="create", retry_after_s=3600)
    with pytest.raises(ClusterError):
        client.create(CONFIG_MAPS, config_map(), namespace="default")
    assert time.now_s <= 30


def test_a_create_that_may_have_been_carried_out_is_not_repeated(
    api: KubeApi, client: KubeClient
) -> None:
    api.faults.order(Fault.INTERNAL_ERROR)
    with pytest.raises(ClusterError):
        client.create(CONFIG_MAPS, config_map(), namespace="default")
    assert sum(line.startswith("create") for line in api.log) == 1


def test_a_broken_connection_is_made_again(api: KubeApi, client: KubeClient) -> None:
    api.put(config_map(x="1"))
    get(client)
    api.faults.order(Fault.RESET, times=2)
    assert get(client) == {"x": "1"}


def test_a_server_that_never_answered_is_not_asked_twice(
    api: KubeApi, client: KubeClient, time: Time
) -> None:
    api.faults.order(Fault.RESET, times=2)
    with pytest.raises(ClusterError) as caught:
        get(client)
    assert caught.value.code == "kube_unreachable"
    assert api.url in caught.value.message
    assert time.slept == []


def test_a_server_that_hangs_costs_the_time_limit(api: KubeApi, tmp_path: Path) -> None:
    kubeconfig = api.write_kubeconfig(tmp_path / "config")
    connection = connect(environ={"KUBECONFIG": str(kubeconfig)})
    api.faults.order(Fault.HANG, times=2)
    with pytest.raises(TimedOut):
        KubeClient(connection, timeout_s=0.2).get(CONFIG_MAPS, "a", namespace="default")
    connection.api.rest_client.close()


def test_an_expired_token_is_told(api: KubeApi, client: KubeClient) -> None:
    api.faults.order(Fault.EXPIRED_TOKEN)
    with pytest.raises(ConfigError, match="does not know you") as caught:
        get(client)
    assert caught.value.code == "kube_unauthorized"


def test_a_missing_right_is_named(api: KubeApi, client: KubeClient) -> None:
    api.faults.order(Fault.FORBIDDEN)
    with pytest.raises(ConfigError) as caught:
        client.merge(RAY_SERVICES, "g", {}, namespace="prod")
    assert caught.value.message == "you may not patch rayservices.ray.io 'g' in namespace 'prod'"
    assert "apiGroups ['ray.io'], resources ['rayservices'], verbs ['patch']" in caught.value.hint


@pytest.mark.parametrize(
    ("why", "code", "needed"),
    [
        ("", "kube_forbidden", "create"),
        ('RBAC: clusterrole "x" not found', "kube_forbidden", "create"),
        ('User "a" cannot patch resource "configmaps"', "kube_forbidden", "patch"),
        ("exceeded quota: q", "kube_admission", ""),
        (
            "unable to create new content in namespace x because it is being terminated",
            "kube_admission",
            "",
        ),
    ],
)
def test_an_apply_that_may_not_create(why: str, code: str, needed: str) -> None:
    status = {"kind": "Status", "message": f'configmaps "a" is forbidden: {why}'}
    attempt = Attempt("patch", CONFIG_MAPS, "default", "a", is_apply=True)
    error = to_error(Refusal(403, status), attempt)
    assert error.code == code
    if needed:
        assert f"you may not {needed} configmaps 'a'" in error.message
        assert "verbs ['create', 'patch']" in error.hint


def test_a_proxy_that_refuses_is_told() -> None:
    refusal = to_refusal(403, b"<html>Forbidden</html>", None)
    error = to_error(refusal, Attempt("get", None, name="ray.io/v1"))
    assert (error.code, "proxy" in error.hint) == ("kube_forbidden", True)
    status = {"kind": "Status", "message": 'forbidden: User "a" cannot get path "/apis/ray.io/v1"'}
    error = to_error(Refusal(403, status), Attempt("get", None, name="ray.io/v1"))
    assert "nonResourceURLs ['/apis/ray.io/v1']" in error.hint


def test_a_server_that_does_not_speak_tls(api: KubeApi, tmp_path: Path) -> None:
    kubeconfig = api.write_kubeconfig(tmp_path / "config")
    kubeconfig.write_text(kubeconfig.read_text().replace("http://", "https://"))
    client = KubeClient(connect(environ={"KUBECONFIG": str(kubeconfig)}))
    with pytest.raises(ClusterError, match=r"cannot be reached: .*SSL") as caught:
        get(client)
    assert caught.value.code == "kube_unreachable"
    assert "the server speaks plain HTTP" in caught.value.hint
    with pytest.raises(ClusterError, match="cannot be reached"):
        client.transport.stream(
            Attempt("watch", CONFIG_MAPS, "default"), query={"watch": "true"}, silence_s=1
        ).__enter__()


def test_a_missing_crd_is_told(client: KubeClient, api: KubeApi) -> None:
    api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", "rayservices.ray.io")
    with pytest.raises(KindMissing, match="no rayservices") as caught:
        client.get(RAY_SERVICES, "g", namespace="default")
    assert "KubeRay" in caught.value.hint


def test_a_change_is_made_again_on_what_others_wrote(api: KubeApi, client: KubeClient) -> None:
    api.put(config_map(n="0"))
    seen = []

    def raised(value: dict[str, Any]) -> dict[str, Any]:
        seen.append(value["data"]["n"])
        if len(seen) < 4:  # somebody is faster
            api.put(config_map(n=str(len(seen))))
        value["data"]["n"] += "!"
        return value

    after = client.modify(CONFIG_MAPS, "a", raised, namespace="default")
    assert seen == ["0", "1", "2", "3"]
    assert after["data"] == {"n": "3!"}


def test_a_storm_of_conflicts_ends(api: KubeApi, client: KubeClient, time: Time) -> None:
    api.put(config_map(n="0"))
    api.faults.order(Fault.CONFLICT, times=100, verb="update")
    with pytest.raises(Conflict) as caught:
        client.modify(CONFIG_MAPS, "a", lambda v: {**v, "data": {"n": "1"}}, namespace="default")
    assert "two controllers" in caught.value.hint
    assert time.now_s < 30


def test_a_change_of_nothing_is_not_written(api: KubeApi, client: KubeClient) -> None:
    api.put(config_map(n="0"))
    client.modify(CONFIG_MAPS, "a", lambda value: value, namespace="default")
    assert not any(line.startswith("update") for line in api.log)


def test_a_list_whose_next_page_has_expired_begins_again(api: KubeApi, client: KubeClient) -> None:
    for name in ("a", "b", "c"):
        api.put({**config_map(), "metadata": {"name": name, "namespace": "default"}})
    client.page_size = 2
    asked = api.faults.next_for

    def forgets(verb: str, path: str) -> Any:
        if sum(line.startswith("list") for line in api.log) == 2:
            api.store.compact()
        return asked(verb, path)

    api.faults.next_for = forgets  # type: ignore[method-assign]
    names = [each["metadata"]["name"] for each in client.list(CONFIG_MAPS).items]
    assert names == ["a", "b", "c"]
    assert sum(line.startswith("list") for line in api.log) == 3


def follow(client: KubeClient) -> Iterator[Event]:
    return watch(client, CONFIG_MAPS, namespace="default", timeout_s=3600)


def data_of(event: Event) -> list[dict[str, str]]:
    return [each["data"] for each in event.objects]


def test_a_watch_goes_on_where_it_was_cut_off(api: KubeApi, client: KubeClient) -> None:
    api.put(config_map(n="0"))
    api.faults.order(Fault.DROP_WATCH, times=2)
    events = follow(client)
    assert data_of(next(events)) == [{"n": "0"}]
    for number in ("1", "2", "3"):
        api.put(config_map(n=number))
        event = next(events)
        assert (event.change, data_of(event)) == (Change.CHANGED, [{"n": number}])
    assert sum(line.startswith("list") for line in api.log) == 1
    assert api.faults.num_left == 0


def test_a_watch_whose_place_is_forgotten_lists_again(api: KubeApi, client: KubeClient) -> None:
    api.put(config_map(n="0"))
    api.faults.order(Fault.DROP_WATCH)
    events = follow(client)
    next(events)
    api.put(config_map(n="1"))
    next(events)
    api.put(config_map(n="2"))
    api.store.compact()
    again = next(each for each in events if each.change is Change.LISTED)
    assert data_of(again) == [{"n": "2"}]


def test_a_watch_outlives_failures_and_ends_with_a_refusal(
    api: KubeApi, client: KubeClient
) -> None:
    api.put(config_map(n="0"))
    api.faults.order(Fault.INTERNAL_ERROR, times=3, verb="watch")
    api.faults.order(Fault.TOO_MANY_REQUESTS, verb="watch", retry_after_s=1)
    api.faults.order(Fault.EXPIRED_TOKEN, verb="watch")
    events = follow(client)
    next(events)
    with pytest.raises(ConfigError) as caught:
        next(events)
    assert caught.value.code == "kube_unauthorized"
    assert api.faults.num_left == 0


def test_a_watch_gives_up_when_nothing_answers_for_long(
    api: KubeApi, client: KubeClient, time: Time
) -> None:
    api.faults.order(Fault.INTERNAL_ERROR, times=1000, verb="watch")
    events = follow(client)
    next(events)
    with pytest.raises(ClusterError):
        next(events)
    assert 30 < time.now_s < 60


@pytest.mark.parametrize(
    ("content", "code"),
    [("{}", "kubeconfig_invalid"), ("contexts: []", "kubeconfig_invalid"), (None, "missing")],
)
def test_a_kubeconfig_that_is_none(tmp_path: Path, content: str | None, code: str) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match="kubeconfig") as caught:
        connect(environ={"KUBECONFIG": str(file)})
    assert caught.value.code.endswith(code)


@pytest.mark.parametrize(
    ("broken", "by"),
    [
        ("kind: Config", "kind: [Config"),
        ("kind: Config", "kind: Config\n- a"),
        ("server:", "certificate-authority-data: a\n    server:"),
        ("clusters:\n", "clusters: 1\nx:\n"),
        ("", "- a list\n"),
    ],
)
def test_a_broken_kubeconfig_is_told(api: KubeApi, tmp_path: Path, broken: str, by: str) -> None:
    file = api.write_kubeconfig(tmp_path / "config")
    whole = file.read_text().replace("http://", "https://")
    file.write_text(whole.replace(broken, by) if broken else by)
    with pytest.raises(ConfigError) as caught:
        connect(environ={"KUBECONFIG": str(file)})
    assert caught.value.code == "kubeconfig_invalid"
    assert str(file) in caught.value.message


def test_an_unknown_context_is_told(api: KubeApi, tmp_path: Path) -> None:
    environ = {"KUBECONFIG": str(api.write_kubeconfig(tmp_path / "config", namespace="prod"))}
    assert connect(environ=environ).namespace == "prod"
    with pytest.raises(ConfigError, match="no context 'other'") as caught:
        connect(context="other", environ=environ)
    assert "test" in caught.value.hint
