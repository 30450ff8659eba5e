"""Each command works with the rights that docs/kubernetes-commands.md says it needs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kube_platform as made
import pytest
import yaml
from kube_api.authorization import account_name
from kube_api.resource_types import BUILT_IN, MONITORING, RAY
from kube_api.server import running_kube_api
from kube_platform import NAMESPACE, Operated

DOCUMENT = Path(__file__).parents[2] / "docs" / "kubernetes-commands.md"
RBAC = "rbac.authorization.k8s.io/v1"
GROUPS = {each.plural: each.group for each in (*BUILT_IN, *RAY, *MONITORING)}


@dataclass(frozen=True)
class Right:
    """A verb on a resource, in the platform's namespace or wherever `scope` says."""

    verb: str
    resource: str
    scope: str = NAMESPACE


def documented(command: str) -> list[Right]:
    """The rights that the document's table has for a command."""
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    cells = {name: cell for names, cell in rows for name in names.split(", ")}
    needs = cells[f"`{command}`"].replace("the same", cells["`apply`"]).partition(". ")[0]
    return [right for part in needs.split("; ") for right in rights_in(part)]


def rights_in(part: str) -> Iterator[Right]:
    """The rights of a part such as `get, list pods, nodes (all namespaces)`."""
    scope = "" if "(all namespaces)" in part else NAMESPACE
    if match := re.search(r" in `(\S+)`", part):
        scope = match[1]
    part = part.replace("what the files hold", "configmaps, rayservices")
    words = re.findall(r"[a-z/]+", re.sub(r" in `.*|, for .*| \(.*", "", part))
    verbs = [word for word in words if word in VERBS]
    for resource in words[len(verbs) :]:
        for verb in verbs:
            yield Right(verb, resource, "" if resource in OF_CLUSTER else scope)


VERBS = {"get", "list", "create", "update", "patch"}
OF_CLUSTER = {each.plural for each in BUILT_IN if not each.namespaced}


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operated]:
    with running_kube_api(
        custom=(*RAY, *MONITORING), namespaces=(NAMESPACE, "kube-node-lease")
    ) as api:
        monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path / "config")))
        found = Operated(api)
        found.install()
        yield found


def limit(platform: Operated, rights: list[Right]) -> None:
    """From now on the commands have these rights only."""
    user = account_name(NAMESPACE, "limited")
    platform.api.issued["limited"] = user
    for scope in {right.scope for right in rights}:
        rules = [
            {"verbs": [right.verb], "resources": [right.resource],
             "apiGroups": [GROUPS[right.resource.partition("/")[0]]]}
            for right in rights if right.scope == scope
        ]  # fmt: skip
        kind = "Role" if scope else "ClusterRole"
        metadata: dict[str, Any] = {"name": "limited"} | ({"namespace": scope} if scope else {})
        platform.api.put({"apiVersion": RBAC, "kind": kind, "metadata": metadata, "rules": rules})
        binding = {
            "apiVersion": RBAC, "kind": f"{kind}Binding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "limited"},
            "subjects": [{"kind": "ServiceAccount", "name": "limited", "namespace": NAMESPACE}],
        }  # fmt: skip
        platform.api.put(binding)
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    config["users"][0]["user"] = {"token": "limited"}
    Path(os.environ["KUBECONFIG"]).write_text(yaml.safe_dump(config))


def invocation(command: str, folder: Path) -> list[str]:
    """Words of a command that changes as much as it can."""
    file = folder / "objects.yaml"
    # A new image builds a second cluster, which never comes up: an upgrade is taken back.
    change: Any = {"image": "galerne:2"} if command == "upgrade" else {"most": 5}
    objects = [made.config_map(made.settings()), made.service(**change)]
    for each in objects:
        each["metadata"] = {"name": each["metadata"]["name"]}
        each.pop("status", None)
    file.write_text(yaml.safe_dump_all(objects))
    more = {
        "apply": [str(file), "--force"],
        "upgrade": [str(file), "--force", "--timeout", "30"],
        "scale": [made.MODEL, "--replicas", "2"],
        "drain": ["node-1"],
        "keys": ["create", "ci"],
    }
    return [command, *more.get(command, [])]


COMMANDS = (
    "status", "wait", "doctor", "apply", "upgrade", "rollback", "scale", "drain", "keys"
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_the_documented_rights_are_enough(command: str, platform: Operated, tmp_path: Path) -> None:
    platform.always = platform.serve_once_back
    if command == "rollback":
        platform.run("upgrade", *invocation("apply", tmp_path)[1:])
    limit(platform, documented(command))
    code, output = platform.run(*invocation(command, tmp_path))
    assert "you may not" not in output
    assert "want of rights" not in output
    assert ("was taken back" in output) == (command == "upgrade")
    assert code in (0, 1), output


@pytest.mark.parametrize("command", COMMANDS)
def test_a_right_too_few_is_named(command: str, platform: Operated, tmp_path: Path) -> None:
    limit(platform, [])
    code, output = platform.run(*invocation(command, tmp_path))
    if command == "doctor":
        assert "not looked at, for want of rights" in output
    else:
        assert code == 2
        assert re.search(r"you may not \w+ \S+", output)
        assert "a role needs apiGroups" in output
