"""Does goodput grow with replicas? The bench of that name, with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.benches import scaleout
from loadtest.figures import Line
from loadtest.peers.galerne import PEER
from loadtest.scenarios.finding import Finding
from loadtest.verdict.checks import at_least, at_most
from loadtest.whole_file import whole_file

NAME = "scaleout"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the bench measures, and the least goodput of so many replicas over that many times one
    replica's."""

    bench: scaleout.Plan = field(default=scaleout.Plan())
    least_efficiency: float = 0.9


def run(plan: Plan, folder: Path) -> Finding:
    """One fleet after another, of platforms of its own."""
    lines, _ = scaleout.bench(plan.bench, [PEER])
    with whole_file(folder / "scaleout.jsonl") as path:
        path.write_text("".join(f"{line.to_json()}\n" for line in lines))
    return judge(lines, plan)


def judge(lines: Sequence[Line], plan: Plan) -> Finding:
    """What the bench's lines amount to."""

    def values(case: str) -> dict[str, float | None]:
        return {line.subject: line.value for line in lines if line.case == case}

    efficiency, failed = (
        values("efficiency"),
        sum(v or 0.0 for v in values("failed streams").values()),
    )
    figures = {
        "efficiency": efficiency,
        "goodput_chunks_per_s": values("goodput"),
        "failed_streams": failed,
    }
    checks = [
        at_least(f"efficiency of {name}", plan.least_efficiency, efficiency.get(name))
        for name in map(scaleout.subject_name, plan.bench.replicas)
        if name != scaleout.subject_name(1)
    ]
    return Finding(NAME, figures, (*checks, at_most("failed streams", 0, failed)))
