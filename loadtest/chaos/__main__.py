"""What happens to streams when a part of the fleet fails.

    python -m loadtest.chaos --faults sigkill,gateway_kill

For each fault, the same streams run once more on a fleet of simulated engines, and are compared
byte by byte with a run in which nothing happened. One JSON line each goes to stdout and to
`loadtest/results/chaos.json`; progress goes to stderr. Faults that reach into other processes'
sockets take root.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from loadtest.chaos.scenarios import SCENARIOS, Plan, run
from loadtest.machine import allow_many_connections, describe
from loadtest.whole_file import whole_file

_RESULTS = Path(__file__).parents[1] / "results" / "chaos.json"


def main() -> None:
    """Break, print and write."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__, formatter_class=raw)
    names = ",".join(SCENARIOS)
    parser.add_argument("--faults", default=names, help=f"some of: {names}")
    parser.add_argument("--streams", type=int, default=Plan().num_streams, help="at once")
    options = parser.parse_args()
    chosen = [name for name in options.faults.split(",") if name]
    if unknown := set(chosen) - set(SCENARIOS):
        sys.exit(f"chaos: unknown faults {', '.join(sorted(unknown))}; choose from {names}")
    allow_many_connections()
    lines = []
    for line in run(Plan(num_streams=options.streams), chosen):
        print(json.dumps(line), flush=True)
        lines.append(line)
    if chosen != list(SCENARIOS):
        return  # results are of one whole run
    document = {"bench": "chaos", "machine": describe({}), "results": lines}
    with whole_file(_RESULTS) as path:
        path.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
