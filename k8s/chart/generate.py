"""`python -m k8s.chart.generate` writes the chart's `values.schema.json`.

Run it after a change of the settings or of `values.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from k8s.chart.schema import schema

_ROOT = Path(__file__).parents[2]


def generated() -> Mapping[Path, str]:
    """Contents of every generated file, by its path in the repository."""
    return {Path("helm/galerne/values.schema.json"): json.dumps(schema(), indent=1) + "\n"}


def main() -> None:
    for path, content in generated().items():
        (_ROOT / path).write_text(content)
        print(path)


if __name__ == "__main__":
    main()
