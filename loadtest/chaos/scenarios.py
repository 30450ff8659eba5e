"""Each fault, what it is done to, and what came of the streams."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from loadtest.chaos import faults
from loadtest.chaos.streams import Crowd, Load, Recorded, num_identical
from loadtest.peers import galerne
from loadtest.peers.base import Server

_STEP_S = 0.1
_SIMULATED = {
    "simulator.start_s": 0,
    "simulator.timing.step_s": _STEP_S,
    "max_concurrent_requests": 256,
}
_FEW_BLOCKS = {**_SIMULATED, "simulator.kv_blocks": 400}
"""Less than half of what the streams of one replica take together: it preempts again and again."""
_SETTLE_S = 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much runs: streams at once over so many replicas and gateways, tokens in each."""

    num_streams: int = 200
    num_tokens: int = 150
    num_replicas: int = 4
    num_gateways: int = 2
    num_real_streams: int = 8
    num_real_tokens: int = 160


@dataclass(frozen=True, slots=True)
class Fleet:
    """A running platform. `condemned` are processes that it must replace to be whole again."""

    commands: galerne.Platform
    server: Server
    num_replicas: int
    num_gateways: int
    condemned: set[int] = field(default_factory=set)

    def replicas(self) -> list[dict[str, Any]]:
        """The engine replicas, the busiest first."""
        (model,) = self.commands.status()["models"]
        return sorted(model["replicas"], key=lambda row: -(row["in_flight"] or 0))

    def busiest(self) -> int:
        """The process of the replica with the most streams."""
        return int(self.replicas()[0]["pid"])

    def victim(self) -> int:
        """The busiest replica, which will have to be replaced."""
        pid = self.busiest()
        self.condemned.add(pid)
        return pid

    def process(self, title: str) -> int:
        """The process whose title begins like this."""
        for process in self.commands.descendants():
            if process.cmdline() and process.cmdline()[0].startswith(title):
                return int(process.pid)
        raise LookupError(title)

    def is_whole(self) -> bool:
        """Whether everything runs and nothing holds a request."""
        status = self.commands.status()
        replicas = status["models"][0]["replicas"]
        return (
            [row["state"] for row in replicas] == ["RUNNING"] * self.num_replicas
            and not any(row["in_flight"] for row in replicas)
            and self.condemned.isdisjoint(row["pid"] for row in replicas)
            and len(status["gateways"]) == self.num_gateways
        )

    def settle(self) -> float:
        """Wait until it is whole; seconds that took.

        Raises:
            TimeoutError: it does not become so.
        """
        begun = time.monotonic()
        while not self.is_whole():
            if time.monotonic() - begun > _SETTLE_S:
                raise TimeoutError("the fleet does not become whole again")
            time.sleep(0.5)
        return time.monotonic() - begun


Break = Callable[[Fleet], None]


def _roll(fleet: Fleet) -> None:
    """Replace every replica, one after another, while it has streams."""
    fleet.commands.run("apply", "--set", "models.sim.simulator.timing.overhead_s=0.003")


def _slow(fleet: Fleet) -> None:
    faults.slow(fleet.busiest(), seconds=8, share=0.1)


def _nothing(_fleet: Fleet) -> None:
    """The fleet is small enough as it is."""


SCENARIOS: dict[str, Break] = {
    "sigkill": lambda fleet: faults.kill(fleet.victim()),
    "sigstop": lambda fleet: faults.freeze(fleet.victim()),
    "listener_close": lambda fleet: _some(faults.close_listeners(fleet.victim())),
    "half_open": lambda fleet: _some(faults.cut_silently(fleet.busiest())),
    "slow_replica": _slow,
    "gateway_kill": lambda fleet: faults.kill(int(fleet.commands.status()["gateways"][0]["pid"])),
    "controller_kill": lambda fleet: faults.kill(fleet.process("ray::ServeController")),
    "rolling_update": _roll,
    "kv_full": _nothing,
    "real_sigkill": lambda fleet: faults.kill(fleet.victim()),
}
"""What breaks, by name."""


def _some(count: int) -> None:
    if not count:
        raise RuntimeError("nothing was there to break")


def run(plan: Plan, chosen: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A line for each fault, in the order of `SCENARIOS`."""
    load = Load(plan.num_streams, plan.num_tokens)
    simulated = [name for name in SCENARIOS if name in chosen and name != "real_sigkill"]
    if simulated:
        with _fleet(plan, _SIMULATED) as fleet:
            undisturbed = _undisturbed(fleet, load)
            for name in simulated:
                if name != "kv_full":
                    yield _scenario(fleet, name, load, undisturbed)
        if "kv_full" in simulated:
            with _fleet(plan, _FEW_BLOCKS) as fleet:
                yield _scenario(fleet, "kv_full", load, undisturbed)
    if "real_sigkill" in chosen:
        load = Load(plan.num_real_streams, plan.num_real_tokens)
        with galerne.started("demo", ["--preset", "cpu", "--replicas", "2"]) as (commands, server):
            fleet = Fleet(commands, server, num_replicas=2, num_gateways=1)
            undisturbed = _undisturbed(fleet, load)
            # A real engine's batches change its arithmetic: near-ties fall otherwise each time.
            again = num_identical(_undisturbed(fleet, load), undisturbed)
            line = _scenario(fleet, "real_sigkill", load, undisturbed)
            yield {**line, "identical_undisturbed": again}


@contextmanager
def _fleet(plan: Plan, settings: dict[str, Any]) -> Iterator[Fleet]:
    words = galerne.simulated_words(settings, replicas=plan.num_replicas)
    words += ["--set", f"gateway.replicas={plan.num_gateways}"]
    with galerne.started(galerne.SIM_MODEL, words) as (commands, server):
        yield Fleet(commands, server, plan.num_replicas, plan.num_gateways)


def _undisturbed(fleet: Fleet, load: Load) -> list[Recorded]:
    _progress("an undisturbed run")
    crowd = Crowd(fleet.server, load, "undisturbed")
    asyncio.run(crowd.go())
    failed = next((stream for stream in crowd.streams if not stream.is_complete), None)
    if failed is not None:
        raise RuntimeError(f"a stream failed though nothing was broken: {failed.failure}")
    return crowd.streams


def _scenario(
    fleet: Fleet, name: str, load: Load, undisturbed: Sequence[Recorded]
) -> dict[str, Any]:
    fleet.settle()
    before = _num_resumes(fleet)
    crowd = Crowd(fleet.server, load, name)
    _progress(f"{name}: {load.count} streams")
    asyncio.run(_break_among(fleet, SCENARIOS[name], crowd))
    _progress(f"{name}: {sum(stream.is_complete for stream in crowd.streams)} complete")
    whole_after_s = fleet.settle()
    streams = crowd.streams
    line = {
        "fault": name,
        "streams": load.count,
        "completed": sum(stream.is_complete for stream in streams),
        "identical": num_identical(streams, undisturbed),
        "resumed": _num_resumes(fleet) - before,
        "worst_gap_ms": _worst_gap_ms(streams),
        "undisturbed_worst_gap_ms": _worst_gap_ms(undisturbed),
        "whole_after_s": round(whole_after_s, 1),
    }
    for stream in streams:
        if not stream.is_complete:
            _progress(f"{name}: {stream.failure or stream.body[-200:]!r}")
            break
    return line


async def _break_among(fleet: Fleet, fault: Break, crowd: Crowd) -> None:
    """Break something once every stream has begun."""
    work = asyncio.create_task(crowd.go())
    await crowd.has_begun.wait()
    await asyncio.to_thread(fault, fleet)
    await work


def _num_resumes(fleet: Fleet) -> int:
    return sum(row.get("resumes", 0) for row in fleet.commands.access_log())


def _worst_gap_ms(streams: Sequence[Recorded]) -> int:
    return round(max(stream.gap_s for stream in streams) * 1000)


def _progress(text: str) -> None:
    print(f"chaos: {text}", file=sys.stderr, flush=True)
