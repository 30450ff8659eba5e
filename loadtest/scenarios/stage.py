"""What scenarios load: an endpoint, what is asked of it, and what it promises."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.markup import escape

from loadtest.generator.run import Plan, Watch
from loadtest.generator.target import Target
from loadtest.peers import galerne
from loadtest.peers.galerne import Platform
from loadtest.verdict.checks import early_ends
from loadtest.verdict.slo import RequestLimits, Slo
from loadtest.workload.spec import to_workload
from serving.cli.console import say
from serving.cli.load_run import Outcome, perform
from serving.errors import ConfigError

NEIGHBOUR_KEY_VARIABLE = "GALERNE_NEIGHBOUR_KEY"
"""Environment variable with the API key of a second tenant."""

_TIMEOUT_S = 120.0
"""Of one request. Longer than any wait that a server should impose, so that one is seen."""
_KV_BLOCKS = 2000
"""Several times what runs at once, and so few that prefix caches, and gateways' memory of them, are
full after a minute or two: until then memory grows."""


@dataclass(frozen=True, slots=True)
class Stage:
    """An endpoint and one kind of request to it.

    `capacity_rps` is about how many such requests a second keep the SLO; scenarios choose their
    rates by it. `request` has fields of a workload's traffic. `neighbour_key_env` names the
    variable with a second tenant's key. `commands` is the platform itself where it runs on this
    machine, so that its processes can be watched and killed.
    """

    target: Target
    model: str
    key: str | None
    slo: Slo
    capacity_rps: float
    request: Mapping[str, Any]
    neighbour_key_env: str | None = None
    commands: Platform | None = None

    def traffic(self, arrivals: str, *, key_env: str | None = None) -> dict[str, Any]:
        """Such requests as one part of a workload."""
        made = {"model": self.model, "arrivals": arrivals, **self.request}
        return made if key_env is None else {**made, "key_env": key_env}

    def local(self, scenario: str) -> Platform:
        """The platform, for scenarios that need its processes.

        Raises:
            ConfigError: it runs elsewhere.
        """
        if self.commands is None:
            raise ConfigError(
                f"{scenario} needs the platform's processes, and {self.target.url} is not the "
                "platform of this machine",
                code="platform_elsewhere",
                param="--url",
                hint="run it where the platform runs, with its GALERNE_STATE_DIR, or without --url",
            )
        return self.commands


@dataclass(frozen=True, slots=True)
class Run:
    """One load test of a scenario."""

    title: str
    traffic: Mapping[str, Mapping[str, Any]]
    duration_s: float

    def perform(self, stage: Stage, also: Watch | None = None) -> Outcome:
        """What became of it.

        Args:
            also: told each moment of the run.

        Raises:
            ServingError: see `loadtest.generator.run.load`.
            KeyboardInterrupt: somebody stopped it.
        """
        document = {"duration_s": self.duration_s, "traffic": self.traffic}
        plan = Plan(
            stage.target, to_workload(document), key=stage.key, timeout_s=_TIMEOUT_S,
            title=self.title,
        )  # fmt: skip
        outcome = perform(plan, stage.slo, also)
        if not outcome.result.about.is_whole:
            raise KeyboardInterrupt
        for note in early_ends(outcome.summary.overall):
            say(escape(f"{self.title}: {note}"))
        return outcome


@dataclass(frozen=True, slots=True)
class Simulated:
    """A platform over simulated engines, slow enough that a small machine is never what limits it:
    `num_sequences` at once in each replica, a token each every `step_s`.

    It refuses what would be too late: requests wait in the gateway for half of the time to the
    first token at most. As shipped they wait for two minutes, behind those that can still be in
    time. `settings` are further ones by path, as of `galerne up --set`.
    """

    num_replicas: int = 2
    num_sequences: int = 16
    step_s: float = 0.2
    prompt_tokens: int = 64
    output_tokens: int = 8
    ttft_limit_ms: float = 2000.0
    settings: Sequence[str] = ()

    @property
    def capacity_rps(self) -> float:
        """Requests a second when every place is taken.

        >>> Simulated(num_replicas=2, num_sequences=16, step_s=0.2, output_tokens=8).capacity_rps
        20.0
        """
        return self.num_replicas * self.num_sequences / (self.step_s * self.output_tokens)

    @property
    def slo(self) -> Slo:
        """First tokens in time, and a pace that is at most half of what steps allow."""
        limits = RequestLimits(ttft_ms=self.ttft_limit_ms, tpot_ms=2000 * self.step_s)
        return Slo(request=limits)

    def words(self) -> list[str]:
        """Options of `galerne up`."""
        of_model = {
            "simulator.start_s": 0,
            "simulator.timing.step_s": self.step_s,
            "simulator.kv_blocks": _KV_BLOCKS,
            "engine.max_num_seqs": self.num_sequences,
            "slo.ttft_s": self.ttft_limit_ms / 1000,
            "slo.itl_s": 2 * self.step_s,
        }
        others = (f"gateway.queue_timeout_s={self.ttft_limit_ms / 2000:g}", *self.settings)
        words = galerne.simulated_words(of_model, replicas=self.num_replicas)
        return [*words, *(word for setting in others for word in ("--set", setting))]


@contextmanager
def simulated(fleet: Simulated) -> Iterator[Stage]:
    """A simulated platform with two tenants; it is down on exit.

    Raises:
        UnavailableError: it does not come up.
    """
    with galerne.started(galerne.SIM_MODEL, fleet.words()) as (commands, server):
        made = commands.run("keys", "create", "--name", "neighbour", "--json")
        os.environ[NEIGHBOUR_KEY_VARIABLE] = json.loads(made)["key"]
        try:
            yield Stage(
                Target.parse(server.url),
                model=server.model,
                key=server.headers["Authorization"].removeprefix("Bearer "),
                slo=fleet.slo,
                capacity_rps=fleet.capacity_rps,
                request={
                    "prompt_tokens": fleet.prompt_tokens,
                    "output_tokens": fleet.output_tokens,
                },
                neighbour_key_env=NEIGHBOUR_KEY_VARIABLE,
                commands=commands,
            )
        finally:
            del os.environ[NEIGHBOUR_KEY_VARIABLE]
