"""A workload as a document: which parts it has, when their sessions come and what they ask.

    seed: 7
    duration_s: 300
    traffic:
      chat:
        model: mistral-7b
        arrivals: poisson:5
        prompt_tokens: lognormal:512:0.8:max=4000
        output_tokens: lognormal:150:0.7:max=1000

`processes.py` has the arrivals, `lengths.py` the distributions. Start with `read_workload`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from heapq import merge
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from loadtest.workload.lengths import Length, Seconds, parse
from loadtest.workload.processes import FOLDER, Arrivals, PositiveSeconds, Replay
from loadtest.workload.request import BLOCK_TOKENS, Dialect, Session
from loadtest.workload.sessions import Part
from serving.adapters.settings_sources import read_config
from serving.errors import ConfigError

TrafficName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
_MAX_SESSIONS = 100_000_000
"""Their times are drawn at once, and take a gigabyte."""
_WIDEST_SCALE = 1e6
_SCALE_PRECISION = 1.0001
_OF_A_TRACE = ("prompt_tokens", "output_tokens", "turns", "think_s", "shared_prefix_tokens")


class _Document(BaseModel):
    """Frozen, and closed to unknown names: a typo must not be a silent default."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )


class Traffic(_Document):
    """Sessions of one kind, to one model, with one key."""

    model: str = Field(min_length=1)
    """As the server knows it."""
    dialect: Dialect = "chat"
    stream: bool = True
    key_env: str | None = None
    """Environment variable that holds the API key; keys never stand in a document. `None`: that of
    the run."""
    arrivals: Arrivals
    """When its sessions begin."""
    prompt_tokens: Length | None = None
    """Of each turn: what is new in it. Not with a trace, which has its own; else required."""
    output_tokens: Length | None = None
    """That each turn asks for. Not with a trace, which has its own; else required."""
    shared_prefix_tokens: int = Field(0, ge=0, multiple_of=BLOCK_TOKENS)
    """Before the first prompt of each session, in addition to `prompt_tokens`: as a system prompt
    that sessions have in common. A multiple of 512, the blocks that prompts are made of."""
    num_shared_prefixes: int = Field(1, ge=1, le=100_000)
    """How many such prefixes there are; each session takes any of them."""
    turns: Length = parse(1)
    """Of a session."""
    think_s: Seconds = parse(0)
    """Between the end of an answer and the next turn."""
    cancel_ratio: float = Field(0.0, ge=0, le=1)
    """Share of sessions whose client leaves before the end of an answer."""
    cancel_after_s: Seconds | None = None
    """When such a client leaves, counted from when it has sent a turn; required with
    `cancel_ratio`."""
    ignore_eos: bool = True
    """Whether answers go on to their full length, whatever the model says: vLLM's extension of
    OpenAI's APIs; those of the dialect `messages` may end earlier."""
    temperature: float = Field(0.0, ge=0, le=2)
    """0, the default, is greedy."""

    @field_validator("key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not (value.isascii() and value.isidentifier()):
            raise ValueError("must be the name of an environment variable, which holds the key")
        return value

    @model_validator(mode="after")
    def _has_lengths(self) -> Self:
        if isinstance(self.arrivals, Replay):
            fields = type(self).model_fields
            given = [name for name in _OF_A_TRACE if getattr(self, name) != fields[name].default]
            if given:
                raise ValueError(f"{given[0]}: the trace has its own; remove it")
            return self
        for name in ("prompt_tokens", "output_tokens"):
            if getattr(self, name) is None:
                raise ValueError(f"{name}: a value is required, for example lognormal:512:0.8")
        return self

    @model_validator(mode="after")
    def _knows_when_to_leave(self) -> Self:
        if self.cancel_ratio > 0 and self.cancel_after_s is None:
            raise ValueError("cancel_after_s: a value is required with cancel_ratio")
        return self


class Workload(_Document):
    """All that a run sends."""

    seed: int = Field(0, ge=0)
    """Of all that is random. Another seed has other prompts, too: it finds nothing in caches."""
    duration_s: PositiveSeconds | None = None
    """How long sessions begin; `None`: until all steps and traces are through."""
    traffic: Mapping[TrafficName, Traffic] = Field(min_length=1)
    """By name."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        for name, traffic in self.traffic.items():
            arrivals = traffic.arrivals
            if isinstance(arrivals, Replay):
                continue
            lasts_s = arrivals.lasts_s or self.duration_s
            if lasts_s is None:
                raise ValueError(
                    f"duration_s: a value is required, {arrivals.process} arrivals do not end"
                )
            if lasts_s * arrivals.peak_rate > _MAX_SESSIONS:
                raise ValueError(
                    f"duration_s: {lasts_s:g} s at {arrivals.peak_rate:g} sessions a second are "
                    f"more than {_MAX_SESSIONS:,} sessions of {name}"
                )
        return self

    @property
    def unit(self) -> Literal["requests", "sessions"]:
        """What its rates count: where sessions may have several turns they are no requests."""
        has_turns = any(traffic.turns.text != "1" for traffic in self.traffic.values())
        return "sessions" if has_turns else "requests"

    def sessions(self, rate_scale: float = 1.0) -> Iterator[Session]:
        """Sessions of all traffic in order of arrival, made as they are asked for.

        The same each time. At another rate each traffic has the same sessions in the same order,
        more or fewer of them.

        Args:
            rate_scale: multiplies the rate of all traffic, above 0; traces are played so many
                times as fast.

        Raises:
            ConfigError: a trace cannot be read; before the first session.
        """
        duration_s = math.inf if self.duration_s is None else self.duration_s
        parts = [
            Part(name, traffic, self.seed).sessions(duration_s=duration_s, rate_scale=rate_scale)
            for name, traffic in self.traffic.items()
        ]
        return _numbered(merge(*parts, key=lambda session: session.at_s))

    def planned_s(self, rate_scale: float = 1.0) -> float:
        """How long sessions begin, in seconds.

        Raises:
            ConfigError: a trace cannot be read.
        """
        duration_s = math.inf if self.duration_s is None else self.duration_s
        ends_s = []
        for traffic in self.traffic.values():
            lasts_s = traffic.arrivals.lasts_s
            speed = rate_scale if isinstance(traffic.arrivals, Replay) else 1.0
            ends_s.append(math.inf if lasts_s is None else lasts_s / speed)
        return min(duration_s, max(ends_s))

    def shortest_trace_s(self, rate_scale: float = 1.0) -> float:
        """How long the shortest of its traces is played, in seconds; infinite without any.

        Raises:
            ConfigError: a trace cannot be read.
        """
        duration_s = math.inf if self.duration_s is None else self.duration_s
        lasts_s = [replay.lasts_s / rate_scale for replay in self._replays().values()]
        return min([duration_s, *lasts_s]) if lasts_s else math.inf

    def mean_rate(self, rate_scale: float = 1.0) -> float:
        """Sessions a second that are planned on average while sessions begin, of all traffic;
        infinite where all are due at once.

        Raises:
            ConfigError: a trace cannot be read.
        """
        duration_s = math.inf if self.duration_s is None else self.duration_s
        expected = sum(
            traffic.arrivals.expected(duration_s=duration_s, rate_scale=rate_scale)
            for traffic in self.traffic.values()
        )
        planned_s = self.planned_s(rate_scale)
        return expected / planned_s if planned_s else math.inf

    def scale_to(self, rate: float) -> float:
        """The `rate_scale` at which `mean_rate` is this rate.

        Raises:
            ConfigError: a trace cannot be read, or there is no rate that could be scaled.
        """
        if any(replay.lasts_s == 0 for replay in self._replays().values()):
            raise ConfigError(
                "all requests of this trace are due at once: there is no rate to scale",
                code="trace_without_rate",
                param="--trace",
                hint="take a trace that lasts, or --arrivals",
            )
        own_rate = self.mean_rate()
        if not own_rate:
            raise ConfigError(
                "nothing is due within the duration", code="workload_idle", param="--duration"
            )
        scale = rate / own_rate
        if math.isclose(self.mean_rate(scale), rate):
            return scale
        # Sooner played, more of a trace is within the duration, and that may be denser or sparser.
        low, high = scale / _WIDEST_SCALE, scale * _WIDEST_SCALE
        while high > low * _SCALE_PRECISION:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.mean_rate(middle) < rate else (low, middle)
        return high

    def trace_digests(self) -> dict[str, str]:
        """By traffic that replays a trace: the SHA-256 of its file, in hex.

        Raises:
            ConfigError: a trace cannot be read.
        """
        return {name: replay.digest for name, replay in self._replays().items()}

    def check_traces(self, digests: Mapping[str, str]) -> None:
        """Return if the trace of each of these traffics has this SHA-256, in hex.

        Raises:
            ConfigError: one has another, or cannot be read.
        """
        replays = self._replays()
        for name, digest in digests.items():
            if (own := replays[name].digest) != digest:
                raise ConfigError(
                    f"the trace {replays[name].path} is not the file that the coordinator has at "
                    f"this path: SHA-256 {own} here, {digest} there",
                    code="trace_differs",
                )

    def num_dropped(self) -> dict[str, int]:
        """By traffic that replays a trace: requests of length 0 that were left out of it.

        Raises:
            ConfigError: a trace cannot be read.
        """
        return {name: replay.trace.num_dropped for name, replay in self._replays().items()}

    def _replays(self) -> dict[str, Replay]:
        """Traces, by traffic."""
        return {
            name: traffic.arrivals
            for name, traffic in self.traffic.items()
            if isinstance(traffic.arrivals, Replay)
        }


def _numbered(sessions: Iterator[Session]) -> Iterator[Session]:
    return (replace(session, index=index) for index, session in enumerate(sessions))


def read_workload(path: Path) -> Workload:
    """The workload of a YAML or JSON file.

    Raises:
        ConfigError: it cannot be read, or is no workload; names the field. Traces are not read yet.
    """
    try:
        document = read_config(path)
    except ConfigError as error:
        raise ConfigError(
            error.message, code="workload_unreadable", param="--workload", hint=_HINT
        ) from error
    return to_workload(document, folder=path.parent)


_HINT = (
    "for example {duration_s: 60, traffic: {chat: {model: M, arrivals: poisson:5, "
    "prompt_tokens: 512, output_tokens: 100}}}"
)


def to_workload(document: Mapping[str, Any], *, folder: Path = Path()) -> Workload:
    """The workload of a document, whose traces' paths are relative to the folder.

    Raises:
        ConfigError: it is no workload; `param` is the first field at fault, dotted.
    """
    try:
        return Workload.model_validate(document, context={FOLDER: folder})
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_url=False)]
        raise ConfigError(
            "; ".join(f"{field}: {text}" if field else text for field, text in problems),
            code="workload_invalid",
            param=problems[0][0] or None,
            hint=_HINT,
        ) from error


def _problem(detail: Mapping[str, Any]) -> tuple[str, str]:
    """The field, dotted, and what is wrong with it. Its value is not shown: it may be a key."""
    place = [str(part) for part in detail["loc"] if part != "[key]"]
    if "arrivals" in place[:-1]:
        del place[place.index("arrivals") + 1]  # pydantic names the process there
    text = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        text = "there is no such field"
    # A rule over several fields has no place of its own; its text begins with one of them.
    field, colon, rest = text.partition(": ")
    if colon and field.isidentifier():
        place, text = [*place, field], rest
    return ".".join(place), text
