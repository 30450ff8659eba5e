"""`python -m k8s.monitoring.generate` writes the dashboards and the chart's copies of all files.

Run it after a change of the rules or of a dashboard.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from k8s.monitoring.dashboards import BUILDERS, render

_ROOT = Path(__file__).parents[2]
_HERE = Path("k8s/monitoring")
_CHART = Path("helm/galerne/files")


def generated() -> Mapping[Path, str]:
    """Contents of every generated file, by its path in the repository."""
    files = {_CHART / "rules.yaml": (_ROOT / _HERE / "rules.yaml").read_text()}
    for name in BUILDERS:
        document = render(name)
        for folder in (_HERE, _CHART):
            files[folder / "dashboards" / f"{name}.json"] = document
    return files


def main() -> None:
    for path, content in generated().items():
        target = _ROOT / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        print(path)


if __name__ == "__main__":
    main()
