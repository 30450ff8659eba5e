"""What the coordinator and its workers tell each other, as MessagePack over HTTP."""

from __future__ import annotations

from typing import Any

import msgspec

from loadtest.records import Record

TOKEN_VARIABLE = "GALERNE_LOAD_TOKEN"
"""Environment variable with the secret that workers show the coordinator."""

KEY_VARIABLE = "GALERNE_API_KEY"
"""Environment variable with the API key of every part of a workload that names no other."""


class Share(msgspec.Struct):
    """What one worker is to send: every session whose index leaves `worker` when divided by
    `num_workers`. `traces` has the SHA-256 of each trace by its part of the workload: at the same
    path another machine may have another file. `member` names whoever has it: a share passes to
    another worker if one is lost before the start. API keys are not in it; each worker reads them
    from its own environment."""

    worker: int
    num_workers: int
    url: str
    ca_file: str | None
    workload: dict[str, Any]
    rate_scale: float
    salt: int
    timeout_s: float
    tokenizer: str | None
    traces: dict[str, str]
    member: int = 0


class Start(msgspec.Struct):
    """Every worker is ready: begin so many seconds after this has come."""

    in_s: float


class Report(msgspec.Struct):
    """What a worker has seen since its last report; `figures` are its own, with the last one.
    `num_sent` counts all requests that it has sent."""

    worker: int
    records: list[Record]
    num_in_flight: int
    num_sent: int
    figures: dict[str, Any] | None = None
    error: str | None = None


class Orders(msgspec.Struct):
    """The coordinator's answer to a report. `is_over`: no other run follows this one."""

    stop: bool
    is_over: bool = True
