"""The benches' command line.

    python -m loadtest.bench relay --peers galerne,haproxy

Figures go to stdout, one JSON line each, and to `loadtest/results/BENCH.json` and `.md`; progress
goes to stderr. Run it from the root of the repository, on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from loadtest.benches import (
    chunk,
    fidelity,
    generator,
    pick,
    relay,
    routing,
    scaleout,
    smoke,
    throughput,
)
from loadtest.figures import Row, markdown
from loadtest.machine import allow_many_connections, describe
from loadtest.peers import galerne
from loadtest.peers.base import Peer
from loadtest.peers.registry import OVER_ENGINES, SIMULATED, WITH_ENGINES, choose
from loadtest.whole_file import whole_file

RESULTS = Path(__file__).parent / "results"

_THROUGHPUT, _RELAY, _SCALEOUT = throughput.Plan(), relay.Plan(), scaleout.Plan()
_SMOKE, _FIDELITY, _ROUTING = smoke.Plan(), fidelity.Plan(), routing.Plan()
_GENERATOR = generator.Steps()
_CHUNK = chunk.Plan()

Measured = tuple[Sequence[Row], dict[str, str]]


def parser() -> argparse.ArgumentParser:
    """The options; those a bench does not know are errors."""
    raw = argparse.RawDescriptionHelpFormatter
    root = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=raw)
    benches = root.add_subparsers(dest="bench", required=True)
    one = benches.add_parser("throughput", help="real engine: chunks/s against bare vLLM")
    _common(one, WITH_ENGINES, _THROUGHPUT.restarts, run_throughput)
    one.add_argument("--rounds", type=int, default=_THROUGHPUT.rounds)
    one = benches.add_parser("relay", help="added TTFT, CPU per chunk, thousands of streams held")
    _common(one, OVER_ENGINES, _RELAY.restarts, run_relay)
    one.add_argument("--engine", choices=("fake", "sim"), default=_RELAY.engine,
                     help="behind the subjects that route over given engines")  # fmt: skip
    one.add_argument("--cases", type=_words, default=relay.CASES, help=",".join(relay.CASES))
    one.add_argument("--pairs", type=int, default=_RELAY.num_pairs)
    one.add_argument("--rounds", type=int, default=_RELAY.rounds)
    one.add_argument("--held", type=int, default=_RELAY.num_held, help="streams held at once")
    one.add_argument("--waves", type=int, default=_RELAY.num_waves, help="of held streams")
    one = benches.add_parser("scaleout", help="goodput over 1 to 16 simulated replicas")
    _common(one, SIMULATED, _SCALEOUT.restarts, run_scaleout)
    one.add_argument("--replicas", type=_numbers, default=_SCALEOUT.replicas)
    one.add_argument("--rounds", type=int, default=_SCALEOUT.rounds)
    one.add_argument("--streams", type=int, default=_SCALEOUT.streams_per_replica,
                     help="per replica")  # fmt: skip
    one = benches.add_parser("fidelity", help="calibrated simulator against the real engine")
    one.add_argument("--rounds", type=int, default=_FIDELITY.rounds, help="of load on each side")
    one.set_defaults(subjects=[], peers=None, run=run_fidelity)
    one = benches.add_parser("chunk", help="the planner's prefill chunk against vLLM's default")
    one.add_argument("--rounds", type=int, default=_CHUNK.rounds, help="of one prompt on each side")
    one.set_defaults(subjects=[], peers=None, run=run_chunk)
    one = benches.add_parser("routing", help="a trace over 8 simulated replicas: hits, TTFT, load")
    one.add_argument("--trace", type=Path, help="in Mooncake's format; made up if it is not given")
    one.add_argument("--requests", type=int, default=_ROUTING.num_requests)
    one.add_argument("--speed", type=float, default=_ROUTING.speed, help="of the trace's time")
    one.add_argument("--policies", type=_some_of(routing.POLICIES),
                     default=routing.DEFAULT_POLICIES,
                     help="of Galerne: " + ", ".join(routing.POLICIES))  # fmt: skip
    one.add_argument("--peers", type=_some_of(routing.ROUTERS), default=list(routing.ROUTERS),
                     dest="routers", help=", ".join(routing.ROUTERS))  # fmt: skip
    one.set_defaults(subjects=[], peers=None, run=run_routing)
    one = benches.add_parser(
        "pick", help="time of a decision among 64 replicas, the index's memory"
    )
    one.set_defaults(subjects=[], peers=None, run=run_pick)
    one = benches.add_parser("generator", help="requests per second of one worker of galerne load")
    one.add_argument("--rounds", type=int, default=_GENERATOR.rounds, help="at each rate")
    one.set_defaults(subjects=[], peers=None, run=run_generator)
    one = benches.add_parser("journal", help="CPU per chunk with journals of streams and without")
    one.add_argument("--restarts", type=int, default=3, help="starts of each, in turn")
    one.set_defaults(subjects=[galerne.WITHOUT_JOURNALS, galerne.PEER], peers=None, run=run_journal)
    one = benches.add_parser("smoke", help="each subject relays one stream; no results file")
    _common(one, (*OVER_ENGINES, *WITH_ENGINES), 1, run_smoke)
    one.add_argument("--engine", choices=("fake", "sim"), default=_SMOKE.engine)
    return root


def _common(
    one: argparse.ArgumentParser,
    peers: Sequence[Peer],
    restarts: int,
    run: Callable[[argparse.Namespace, list[Peer]], Measured],
) -> None:
    distinct = list({peer.name: peer for peer in peers}.values())
    names = ", ".join(peer.name for peer in distinct)
    one.add_argument("--peers", type=_words, default=None, help=f"some of: {names}")
    one.add_argument("--restarts", type=int, default=restarts, help="starts of each subject")
    one.set_defaults(subjects=distinct, run=run)


def run_throughput(options: argparse.Namespace, peers: list[Peer]) -> Measured:
    """The `throughput` bench."""
    plan = throughput.Plan(rounds=options.rounds, restarts=options.restarts)
    return throughput.bench(plan, peers)


def run_relay(options: argparse.Namespace, peers: list[Peer]) -> Measured:
    """The `relay` bench."""
    plan = relay.Plan(engine=options.engine, cases=tuple(options.cases),
                      restarts=options.restarts, num_pairs=options.pairs, rounds=options.rounds,
                      num_held=options.held, num_waves=options.waves)  # fmt: skip
    return relay.bench(plan, peers)


def run_scaleout(options: argparse.Namespace, peers: list[Peer]) -> Measured:
    """The `scaleout` bench."""
    plan = scaleout.Plan(replicas=tuple(options.replicas), restarts=options.restarts,
                         rounds=options.rounds, streams_per_replica=options.streams)  # fmt: skip
    return scaleout.bench(plan, peers)


def run_fidelity(options: argparse.Namespace, _peers: list[Peer]) -> Measured:
    """The `fidelity` bench."""
    return fidelity.bench(fidelity.Plan(rounds=options.rounds))


def run_chunk(options: argparse.Namespace, _peers: list[Peer]) -> Measured:
    """The `chunk` bench."""
    return chunk.bench(chunk.Plan(rounds=options.rounds))


def run_routing(options: argparse.Namespace, _peers: list[Peer]) -> Measured:
    """The `routing` bench."""
    plan = routing.Plan(options.trace, num_requests=options.requests, speed=options.speed)
    return routing.bench(plan, options.policies, options.routers)


def run_pick(_options: argparse.Namespace, _peers: list[Peer]) -> Measured:
    """The `pick` bench."""
    return pick.bench(pick.Plan())


def run_generator(options: argparse.Namespace, _peers: list[Peer]) -> Measured:
    """The `generator` bench."""
    return generator.bench(generator.Steps(rounds=options.rounds))


def run_journal(options: argparse.Namespace, peers: list[Peer]) -> Measured:
    """The `journal` bench: a part of `relay` for the same platform with journals and without."""
    plan = relay.Plan(cases=("cpu",), restarts=options.restarts)
    return relay.bench(plan, peers, base=galerne.WITHOUT_JOURNALS.name)


def run_smoke(options: argparse.Namespace, peers: list[Peer]) -> Measured:
    """The `smoke` bench."""
    return smoke.bench(smoke.Plan(engine=options.engine), peers)


def write_results(folder: Path, bench: str, machine: dict[str, Any], lines: Sequence[Row]) -> None:
    """One JSON document and one Markdown table."""
    folder.mkdir(exist_ok=True)
    results = [json.loads(line.to_json()) for line in lines]
    document = {"bench": bench, "machine": machine, "results": results}
    with whole_file(folder / f"{bench}.json") as path:
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    with whole_file(folder / f"{bench}.md") as path:
        path.write_text(markdown(bench, machine, lines))


def main() -> None:
    """Measure, print and write."""
    options = parser().parse_args()
    try:
        peers = choose(options.subjects, options.peers)
    except ValueError as error:
        sys.exit(f"bench: {error}")
    signal.signal(signal.SIGTERM, _interrupt)
    allow_many_connections()
    machine = describe({})
    try:
        lines, machine["versions"] = options.run(options, peers)
    except KeyboardInterrupt:
        sys.exit("bench: interrupted; nothing was written")
    for line in lines:
        print(line.to_json())
    if options.bench != smoke.BENCH:
        write_results(RESULTS, options.bench, machine, lines)
    if options.bench == fidelity.BENCH and not fidelity.is_faithful(lines):
        sys.exit(f"bench: the simulator is not within {fidelity.TOLERANCE:.0%} of the engine")


def _interrupt(*_: object) -> None:
    """End as after Ctrl-C, so that everything started is stopped."""
    raise KeyboardInterrupt


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _some_of(names: Collection[str]) -> Callable[[str], list[str]]:
    def chosen(text: str) -> list[str]:
        if unknown := set(_words(text)) - set(names):
            raise argparse.ArgumentTypeError(f"no such thing: {', '.join(sorted(unknown))}")
        return _words(text)

    return chosen


def _numbers(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


if __name__ == "__main__":
    main()
