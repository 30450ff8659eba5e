"""What every client is asked for, and what it answers."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_S = 180.0
_LOG_TAIL_CHARS = 2000
CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Streamed chat completions of one length, `rate_rps` a second, evenly spaced.

    `tokenizer` is a model's folder. `url` has no trailing slash and no `/v1`.
    """

    url: str
    model: str
    tokenizer: Path
    rate_rps: float
    num_requests: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one kind of measurement, in ms."""

    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What a client says of a run, by the definitions of `galerne load run` as far as it has them:
    `itl_ms` is of all gaps of all streams, `tpot_ms` of one value for each stream."""

    completed: int
    failed: int
    ttft_ms: Spread
    itl_ms: Spread
    tpot_ms: Spread


@dataclass(frozen=True, slots=True)
class Client:
    """A load generator.

    `install` makes it runnable and returns its version. `command` is what a person would type to
    have it send a load and leave its results in an empty folder; it reads the API key from the
    environment variable `key_variable`, so that the key shows in no list of processes.

    Raises:
        UnavailableError: `install` fails.
    """

    name: str
    install: Callable[[], str]
    command: Callable[[Load, Path], Sequence[str | Path]]
    read_result: Callable[[Path], Figures]
    key_variable: str = "GALERNE_API_KEY"


class FailedError(RuntimeError):
    """A client ended with an error; the message holds the end of what it said."""


def measure(client: Client, load: Load, *, key: str) -> Figures:
    """Run an installed client to its end.

    Raises:
        FailedError: it failed, or does not end.
    """
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), client.key_variable: key}
    with tempfile.TemporaryDirectory(prefix="galerne-client-") as folder:
        try:
            subprocess.run(
                [str(word) for word in client.command(load, Path(folder))], cwd=folder,
                env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, check=True, timeout=_TIMEOUT_S,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            said = error.stdout[-_LOG_TAIL_CHARS:].replace(key, "…")
            raise FailedError(f"{client.name}: {said}") from error
        except subprocess.TimeoutExpired as error:
            raise FailedError(f"{client.name}: still runs after {_TIMEOUT_S:.0f} s") from error
        return client.read_result(Path(folder))
