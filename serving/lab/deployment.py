"""Which deployment of a model serves a trace within an SLO on the fewest GPUs.

Every shape of a replica that fits is replayed on the trace, on more and more replicas until the SLO
is kept. Start with `rank_deployments`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from serving.errors import ConfigError
from serving.lab.demand import Demand
from serving.lab.fleet import Slo
from serving.lab.observation import Observation, observe_trace, replica_rules
from serving.lab.replay import Floats, Rules, seen_by_prompts
from serving.planner.replica_plan import ReplicaPlan, ReplicaQuestion, Shape, plan_replica

TENSOR_PARALLEL_SIZES = (1, 2, 4, 8)
CHUNK_TOKENS = (512, 1024, 2048, 4096, 8192)
SEQUENCES = (64, 128, 256, 512)

NUM_SPARES = 1
"""Replicas beyond those that keep the SLO, so that any one may fail."""

_MOST_GPUS = 512
_WORTH_TRYING = 4
"""Deployments of more than so many times the GPUs of the best so far are not looked for."""


Constraint = Literal["memory", "heads", "TTFT", "ITL", "GPUs"]
_REASONS: Mapping[str, Constraint] = {
    "weights_do_not_fit": "memory",
    "kv_cache_too_small": "memory",
    "heads_not_divisible": "heads",
}
"""Errors of a plan that another shape may mend, by their codes."""


@dataclass(frozen=True, slots=True)
class DeploymentQuestion:
    """A trace that a model is to serve within an SLO."""

    replica: ReplicaQuestion
    demand: Demand
    slo: Slo


def shorter_than(demand: Demand, max_model_len: int) -> Demand:
    """The requests that a model takes; the others count as dropped.

    Raises:
        ConfigError: it takes none.
    """
    fits = demand.prompt_tokens + demand.output_tokens <= max_model_len
    if not fits.any():
        raise ConfigError(
            f"all requests are longer than {max_model_len:,} tokens",
            code="trace_too_long",
            param="--max-model-len",
        )
    return Demand(
        demand.at_s[fits],
        demand.prompt_tokens[fits],
        demand.output_tokens[fits],
        demand.num_dropped + int((~fits).sum()),
    )


@dataclass(frozen=True, slots=True)
class Deployment:
    """Replicas that keep the SLO. `seen` is what the trace's clients see while one has failed."""

    plan: ReplicaPlan
    seen: Observation

    @property
    def num_replicas(self) -> int:
        """With the spare."""
        return self.seen.num_replicas + NUM_SPARES

    @property
    def num_gpus(self) -> int:
        return self.num_replicas * self.plan.shape.tensor_parallel_size

    @property
    def is_bound_by_sequences(self) -> bool:
        """Whether more sequences in a step would change anything."""
        return self.seen.peak_running >= self.plan.shape.max_num_seqs

    def strain(self, slo: Slo) -> float:
        """How much of the SLO the tighter of both latencies takes, 1 for all of it."""
        return max(self.seen.ttft_p99_s / slo.longest_ttft_s, self.seen.itl_p99_s / slo.itl_s)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A shape that will not do, by what and why."""

    shape: Shape
    by: Constraint
    reason: str
    is_bound_by_sequences: bool = False


@dataclass(frozen=True, slots=True)
class Ranking:
    """The deployments that keep the SLO, best first: fewest GPUs, then the least strain."""

    deployments: Sequence[Deployment]
    rejected: Sequence[Rejected]


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a deployment takes: KV blocks and bytes on each GPU of a sequence of full length, how
    many such sequences fit a replica, and GPUs."""

    blocks_per_sequence: int
    kv_bytes_per_sequence: int
    sequences: float
    num_gpus: int


@dataclass(frozen=True, slots=True)
class WindowSaving:
    """The same shape with the model's windows and with full attention, `None` where that does not
    fit, or does not keep the SLO on four times the GPUs."""

    windowed: Footprint
    full: Footprint | None


def rank_deployments(question: DeploymentQuestion, *, tell: Callable[[str], None]) -> Ranking:
    """Every shape that is worth it, tried on the trace."""
    found: list[Deployment] = []
    rejected: list[Rejected] = []
    most_gpus = _MOST_GPUS
    for size, chunk in product(TENSOR_PARALLEL_SIZES, CHUNK_TOKENS):
        for sequences in SEQUENCES:
            # vLLM insists on a chunk of at least a token for each sequence.
            if sequences > chunk:
                break
            shape = Shape(size, chunk, sequences)
            tell(f"{size} GPUs a replica, {chunk:,} tokens and {sequences} sequences a step")
            tried = try_shape(question, shape, most_gpus=most_gpus)
            if isinstance(tried, Deployment):
                found.append(tried)
                most_gpus = min(most_gpus, _WORTH_TRYING * tried.num_gpus)
            else:
                rejected.append(tried)
            if not tried.is_bound_by_sequences:
                break
    found.sort(key=lambda one: (one.num_gpus, one.strain(question.slo)))
    return Ranking(found, rejected)


def try_shape(
    question: DeploymentQuestion, shape: Shape, *, most_gpus: int = _MOST_GPUS
) -> Deployment | Rejected:
    """The fewest replicas of that shape that keep the SLO, or why there are none.

    Raises:
        ConfigError: no shape would do, because the question lacks or contradicts something.
    """
    slo = question.slo
    try:
        plan = plan_replica(question.replica, shape)
    except ConfigError as error:
        if (by := _REASONS.get(error.code)) is None:
            raise
        return Rejected(shape, by, error.message)
    rules = replica_rules(plan, slo)
    if (hopeless := _when_idle(question, rules)) is not None:
        return Rejected(shape, *hopeless)
    most = most_gpus // shape.tensor_parallel_size - NUM_SPARES
    if most < 1:
        return Rejected(shape, "GPUs", _too_many(most_gpus))

    def observe(number: int) -> Observation:
        return observe_trace(question.demand, rules, slo, num_replicas=number)

    seen = _fewest(observe, slo, guess=min(_busy(question.demand, rules), most), most=most)
    if seen.keeps(slo):
        return Deployment(plan, seen)
    is_bound = seen.peak_running >= shape.max_num_seqs
    return Rejected(shape, *_why_not(seen, slo, num_gpus=most_gpus), is_bound)


def by_replicas(
    question: DeploymentQuestion, deployment: Deployment, *, more: int = 3
) -> list[Observation]:
    """The trace on one replica of that shape, on two, and so on up to some more than are needed."""
    rules = replica_rules(deployment.plan, question.slo)
    return [
        observe_trace(question.demand, rules, question.slo, num_replicas=number)
        for number in range(1, deployment.seen.num_replicas + more + 1)
    ]


def window_saving(question: DeploymentQuestion, best: Deployment) -> WindowSaving | None:
    """What the model's windows save in this deployment, `None` if it has none."""
    model = question.replica.model
    if not model.has_window:
        return None
    unwindowed = replace(model, windows=(None,) * model.num_layers)
    full = replace(question, replica=replace(question.replica, model=unwindowed))
    most_gpus = _WORTH_TRYING * best.num_gpus
    tried = try_shape(full, best.plan.shape, most_gpus=most_gpus)
    return WindowSaving(
        _footprint(best), _footprint(tried) if isinstance(tried, Deployment) else None
    )


def _footprint(deployment: Deployment) -> Footprint:
    plan = deployment.plan
    return Footprint(
        blocks_per_sequence=plan.blocks_per_sequence,
        kv_bytes_per_sequence=plan.blocks_per_sequence * plan.kv.bytes_per_block,
        sequences=plan.kv.max_concurrency,
        num_gpus=deployment.num_gpus,
    )


def _fewest(
    observe: Callable[[int], Observation], slo: Slo, *, guess: int, most: int
) -> Observation:
    """With the fewest replicas that keep the SLO; with the most if even those do not.

    The guess is from 1 to `most`; the better it is, the fewer observations it takes.
    """
    low, seen = 0, observe(guess)
    while not seen.keeps(slo):
        if (low := seen.num_replicas) >= most:
            return seen
        seen = observe(min(2 * low, most))
    step = 1
    while low == 0 and seen.num_replicas > 1:
        tried = observe(max(seen.num_replicas - step, 1))
        if tried.keeps(slo):
            seen, step = tried, 2 * step
        else:
            low = tried.num_replicas
    while seen.num_replicas - low > 1:
        tried = observe((low + seen.num_replicas) // 2)
        if tried.keeps(slo):
            seen = tried
        else:
            low = tried.num_replicas
    return seen


def _busy(demand: Demand, rules: Rules) -> int:
    """So many replicas are busy with the tokens alone while requests come, on average. Fewer may
    do: what is left then may take as long as the SLO allows."""
    attended = np.minimum(demand.prompt_tokens, rules.window_tokens).astype(float)
    attended += rules.full_ratio * (demand.prompt_tokens - attended)
    work_s = _prefill_s(demand, rules) + demand.output_tokens * (
        rules.decode_s_per_sequence + attended * rules.attention_s_per_token
    )
    return max(int(work_s.sum() / demand.span_s), 1)


def _prefill_s(demand: Demand, rules: Rules) -> Floats:
    """[num_requests]: what reading each prompt adds to the steps that do it."""
    tokens = demand.prompt_tokens
    attention_s: Floats = seen_by_prompts(rules, tokens) * rules.prompt_attention_s
    return tokens * rules.prefill_s_per_token + attention_s


def _when_idle(question: DeploymentQuestion, rules: Rules) -> tuple[Constraint, str] | None:
    """What misses the SLO even where each request has a replica of its own."""
    demand, slo = question.demand, question.slo
    num_steps = np.ceil(demand.prompt_tokens / rules.max_batched_tokens)
    ttft_s = rules.overhead_s + num_steps * rules.step_s + _prefill_s(demand, rules)
    if (at_best := float(np.quantile(ttft_s, slo.ratio))) > slo.longest_ttft_s:
        return "TTFT", f"TTFT p{slo.ratio * 100:g} is {at_best:.2f} s even on an idle replica"
    if (at_best := rules.step_s + rules.decode_s_per_sequence) > slo.itl_s:
        return "ITL", f"ITL is {at_best * 1000:.0f} ms even on an idle replica"
    return None


def _why_not(seen: Observation, slo: Slo, *, num_gpus: int) -> tuple[Constraint, str]:
    if num_gpus < _MOST_GPUS:
        return "GPUs", _too_many(num_gpus)
    if 1.0 - seen.long_ratio < slo.ratio:
        return "ITL", f"ITL p99 is {seen.itl_p99_s * 1000:.0f} ms with {num_gpus} GPUs"
    return "TTFT", f"TTFT p99 is {seen.ttft_p99_s:.2f} s with {num_gpus} GPUs"


def _too_many(num_gpus: int) -> str:
    return f"takes more than {num_gpus} GPUs, {_WORTH_TRYING} times those of a better one"
