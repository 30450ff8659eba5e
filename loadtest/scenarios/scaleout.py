"""Does goodput grow with replicas? The bench of that name, with a verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from loadtest.benches import scaleout
from loadtest.peers.galerne import PEER
from loadtest.scenarios.finding import Finding
from loadtest.verdict.checks import at_least, at_most

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
    (folder / "scaleout.jsonl").write_text("".join(f"{line.to_json()}\n" for line in lines))
    efficiency = {line.subject: line.value for line in lines if line.case == "efficiency"}
    failed = sum(line.value or 0 for line in lines if line.case == "failed streams")
    goodput = {line.subject: line.value for line in lines if line.case == "goodput"}
    figures = {"efficiency": efficiency, "goodput_chunks_per_s": goodput, "failed_streams": failed}
    expected = [scaleout.subject_name(count) for count in plan.bench.replicas if count > 1]
    checks = (
        *(
            at_least(f"efficiency of {name}", plan.least_efficiency, efficiency.get(name))
            for name in expected
        ),
        at_most("failed streams", 0, failed),
    )
    return Finding(NAME, figures, checks)
