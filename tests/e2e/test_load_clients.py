"""Other people's load generators see in Galerne what `galerne load run` sees.

AIPerf, which is 1.2 GB, only with `--timed`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from loadtest.clients import galerne
from loadtest.clients.base import Client, FailedError, Figures, Load, measure
from loadtest.clients.registry import OTHERS
from loadtest.engines import Timing, simulator_settings
from loadtest.peers import bare_vllm
from loadtest.peers import galerne as platform_peer
from loadtest.peers.base import Server, UnavailableError

TOLERANCE = 0.05
TIMING = Timing(overhead_s=0.4, interval_s=0.04)
"""So long that a busy machine adds less than the tolerance, and that TTFT hardly depends on how
much of a running step, of 40 ms, a request has to wait for: it is 440 to 480 ms."""

RATE_RPS = 6.0
"""No divisor of the 25 steps a second: requests meet all moments of a step."""

ATTEMPTS = 3
"""Times on a machine that others use, too, say little: `galerne load run` then refuses to judge,
which fails. What differs by definition differs every time."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A whole platform over one simulated engine with the demo model's tokenizer."""
    settings = {**simulator_settings(TIMING), "weights.source": "demo"}
    with platform_peer.simulated(settings) as running:
        yield running


class Comparison:
    """Runs clients against one server; ours once for all of them, unless it is told to forget."""

    def __init__(self, server: Server) -> None:
        self._load = Load(
            url=server.url, model=server.model, tokenizer=Path(bare_vllm.model_folder()),
            rate_rps=RATE_RPS, num_requests=48, prompt_tokens=128, output_tokens=32,
        )  # fmt: skip
        self._key = server.headers["Authorization"].removeprefix("Bearer ")
        self._ours: Figures | None = None

    def ours(self) -> Figures:
        self._ours = self._ours or self._measured(galerne.CLIENT)
        return self._ours

    def forget(self) -> None:
        self._ours = None

    def differences(self, client: Client) -> dict[str, float]:
        """The client's figures over ours, minus 1, where both mean the same."""
        ours, theirs = _common(self.ours()), _common(self._measured(client))
        return {name: theirs[name] / value - 1 for name, value in ours.items()}

    def _measured(self, client: Client) -> Figures:
        figures = measure(client, self._load, key=self._key)
        print(client.name, json.dumps(asdict(figures)))
        # As many as Locust's users come to.
        least = self._load.num_requests // (2 if client.name == "locust" else 1)
        assert figures.failed == 0
        assert figures.completed >= least
        return figures


def _common(figures: Figures) -> dict[str, float]:
    return {
        "ttft_ms.p50": figures.ttft_ms.p50,
        "itl_ms.p50": figures.itl_ms.p50,
        "tpot_ms.p50": figures.tpot_ms.p50,
        "tpot_ms.mean": figures.tpot_ms.mean,
    }


@pytest.fixture(scope="module")
def comparison(server: Server) -> Comparison:
    return Comparison(server)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("client", OTHERS, ids=lambda client: client.name)
def test_figures_agree_with_ours(
    client: Client, comparison: Comparison, request: pytest.FixtureRequest
) -> None:
    if client.name == "aiperf" and not request.config.getoption("--timed"):
        pytest.skip("installing AIPerf takes minutes and 1.2 GB; --timed runs it")
    try:
        print(client.name, client.install())
    except UnavailableError as error:
        pytest.skip(f"cannot be installed here: {error}")
    found = str(None)
    for _ in range(ATTEMPTS):
        try:
            differences = comparison.differences(client)
        except FailedError as error:
            found = str(error)
        else:
            found = ", ".join(f"{name} {value:+.1%}" for name, value in differences.items())
            print(client.name, "against ours:", found)
            if max(map(abs, differences.values())) <= TOLERANCE:
                return
        comparison.forget()
    pytest.fail(f"{client.name} against ours: {found}")
