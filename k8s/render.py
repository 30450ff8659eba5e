"""`python -m k8s.render` writes `manifests/`: the chart's objects for people without Helm.

It needs Helm itself, from the package helm-python-sdk. Run it after a change of the chart.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).parents[1]
_CHART = _ROOT / "helm" / "galerne"
_MANIFESTS = Path("k8s/manifests")

NAME = "galerne"
"""Of the release, and of the namespace it is in."""
RENDERED: Mapping[str, Mapping[str, Any]] = {
    # What Helm would make at random must be made by hand.
    "laptop-cpu": {"secrets": {"create": False}},
    "single-gpu": {},
}
"""Files of `helm/galerne/ci` by name, with the values that plain manifests need beside theirs."""
_ALSO = {"monitoring": {"dashboards": {"enabled": False}}}
_HEADER = """\
# Written by `python -m k8s.render` from helm/galerne/ci/{name}-values.yaml: change those, not this.
# Needs the KubeRay operator and the Secret galerne-secrets: docs/kubernetes.md.
"""


def manifests() -> Mapping[Path, str]:
    """Contents of every manifest, by its path in the repository."""
    return {_MANIFESTS / f"{name}.yaml": _manifest(name) for name in RENDERED}


def _manifest(name: str) -> str:
    values = yaml.safe_load((_CHART / "ci" / f"{name}-values.yaml").read_text())
    return _HEADER.format(name=name) + "".join(_objects({**values, **RENDERED[name], **_ALSO}))


def _objects(values: Mapping[str, Any]) -> Iterator[str]:
    """The text of each object as the templates wrote it, comments included, the RayService last."""
    helm: Any = importlib.import_module("helm_python")
    yield _NAMESPACE
    with helm.Chart.load(_CHART) as chart:
        texts = chart.render(dict(values), name=NAME, namespace=NAME)
    for path in sorted(texts, key=lambda path: (path.endswith("rayservice.yaml"), path)):
        if path.endswith(".yaml") and texts[path].strip():
            for text in texts[path].split("\n---\n"):
                yield f"---\n{_in_namespace(text.strip())}\n"


_NAMESPACE = f"""\
---
apiVersion: v1
kind: Namespace
metadata:
  name: {NAME}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def _in_namespace(text: str) -> str:
    """With the namespace that Helm gives to objects that belong to one."""
    text = text.replace("managed-by: Helm", "managed-by: kubectl")
    if "\nkind: ClusterRole" in f"\n{text}":
        return text
    return text.replace("\nmetadata:\n", f"\nmetadata:\n  namespace: {NAME}\n", 1)


def main() -> None:
    for path, content in manifests().items():
        (_ROOT / path).write_text(content)
        print(path)


if __name__ == "__main__":
    main()
