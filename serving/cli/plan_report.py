"""What `galerne plan` prints: a ranked table, or JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from serving.planner.hardware import lookalikes

if TYPE_CHECKING:
    from serving.lab.deployment import (
        Deployment,
        DeploymentQuestion,
        Footprint,
        Ranking,
        Rejected,
        WindowSaving,
    )

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Report:
    """A ranking, and what is to be said of it. `price` is of a GPU for an hour, `None` if no one
    has named it."""

    question: DeploymentQuestion
    ranking: Ranking
    saving: WindowSaving | None
    price: float | None

    def cost_per_hour(self, deployment: Deployment) -> float | None:
        """Of all its GPUs."""
        return None if self.price is None else self.price * deployment.num_gpus

    def cost_per_million_tokens(self, deployment: Deployment) -> float | None:
        """Of prompts and answers together, at the trace's mean rate."""
        if (hourly := self.cost_per_hour(deployment)) is None:
            return None
        return hourly / (self.tokens_per_s * 3600) * 1e6

    @property
    def tokens_per_s(self) -> float:
        """Of prompts and answers, on average over the trace."""
        demand = self.question.demand
        tokens = int(demand.prompt_tokens.sum() + demand.output_tokens.sum())
        return tokens / demand.span_s


def to_document(report: Report, *, top: int) -> dict[str, Any]:
    """Everything, with so many deployments; times in seconds, memory in bytes of each GPU. Limits
    that there are not are infinite."""
    question, demand = report.question, report.question.demand
    slo = question.slo
    return {
        "gpu": question.replica.gpu.name,
        "max_model_len": question.replica.max_model_len,
        "requests": int(demand.at_s.size),
        "requests_left_out": demand.num_dropped,
        "requests_per_s": round(demand.at_s.size / demand.span_s, 3),
        "slo": {"ttft_s": slo.ttft_s, "itl_s": slo.itl_s, "ratio": slo.ratio},
        "timing": "calibration" if question.replica.measured else "roofline",
        "deployments": [_row(report, one) for one in report.ranking.deployments[:top]],
        "rejected": [
            {**asdict(one.shape), "by": one.by, "reason": one.reason}
            for one in report.ranking.rejected
        ],
        "window_saving": asdict(report.saving) if report.saving else None,
    }


def ranked_table(report: Report, *, top: int) -> Table:
    """The best deployments, best first."""
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    titles = ["TP", "CHUNK", "SEQS", "REPL", "GPUS", "TTFT S", "ITL MS", "KV %", "FIT", "RPS"]
    titles += [] if report.price is None else ["COST/H", "COST/M"]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for deployment in report.ranking.deployments[:top]:
        table.add_row(*_cells(report, deployment))
    return table


def remarks(report: Report) -> Iterator[str]:
    """What the table does not say."""
    question = report.question
    if best := next(iter(report.ranking.deployments), None):
        kv_gib = best.plan.kv_bytes / _GIB
        yield (
            f"best: {best.plan.kv.num_blocks:,} KV blocks in {kv_gib:.1f} GiB of each GPU beside "
            f"{best.plan.weight_bytes / _GIB:.1f} GiB of weights; a replica runs "
            f"{best.seen.running:.1f} sequences on average"
        )
        yield (
            "REPL: as many as keep the SLO, and a spare; the other columns are without the spare. "
            "TTFT, ITL: median and 99th percentile. KV: mean and peak. "
            f"FIT: sequences of {question.replica.max_model_len:,} tokens in a replica's KV cache. "
            "RPS: good requests a second and replica."
        )
        if report.price is not None:
            yield "COST: of all GPUs, by hour and by million tokens of prompts and answers"
    if report.saving:
        yield _saved(report.saving)
    if others := lookalikes(question.replica.gpu):
        yield (
            f"{question.replica.gpu.name}: Ray calls it {question.replica.gpu.accelerator_type}, "
            f"and {', '.join(others)} too; where a cluster has both, set resources.pool"
        )
    if not question.replica.measured:
        yield "timing: a roofline with published efficiencies; `galerne plan calibrate` measures"
    yield from _rejections(report.ranking)


def _saved(saving: WindowSaving) -> str:
    windowed = _footprint(saving.windowed)
    if saving.full is None:
        return f"window: {windowed}; with full attention this shape would not do"
    return f"window: {windowed}; with full attention {_footprint(saving.full)}"


def _footprint(footprint: Footprint) -> str:
    return (
        f"{footprint.kv_bytes_per_sequence / _GIB:.2f} GiB of KV for a longest sequence "
        f"({footprint.blocks_per_sequence:,} blocks), {footprint.sequences:.1f} fit, "
        f"{footprint.num_gpus} GPUs"
    )


def _rejections(ranking: Ranking) -> Iterator[str]:
    """A line for each tensor parallelism and kind of reason, with the last such reason."""
    groups: dict[tuple[int, str], list[Rejected]] = defaultdict(list)
    for one in ranking.rejected:
        groups[one.shape.tensor_parallel_size, one.by].append(one)
    for (size, by), some in groups.items():
        chunks = sorted({one.shape.max_num_batched_tokens for one in some})
        span = f"{chunks[0]:,}" if len(chunks) == 1 else f"{chunks[0]:,} to {chunks[-1]:,}"
        yield f"not TP {size}, chunks of {span}, for {by}: {some[-1].reason}"


def _row(report: Report, deployment: Deployment) -> dict[str, Any]:
    plan, seen = deployment.plan, deployment.seen
    row: dict[str, Any] = {
        **asdict(plan.shape),
        "replicas": deployment.num_replicas,
        "spare_replicas": deployment.num_replicas - seen.num_replicas,
        "gpus": deployment.num_gpus,
        "weight_bytes": plan.weight_bytes,
        "kv_bytes": plan.kv_bytes,
        "kv_blocks": plan.kv.num_blocks,
        "max_concurrency": round(plan.kv.max_concurrency, 2),
        "running": round(seen.running, 2),
        "kv_used_ratio": round(seen.kv_used_ratio, 4),
        "kv_peak_ratio": round(seen.kv_peak_ratio, 4),
        "ttft_s": {"p50": round(seen.ttft_p50_s, 4), "p99": round(seen.ttft_p99_s, 4)},
        "itl_s": {"p50": round(seen.itl_p50_s, 5), "p99": round(seen.itl_p99_s, 5)},
        "goodput_rps_per_replica": round(seen.goodput_rps / seen.num_replicas, 3),
        "timing": {
            **plan.timing.linear.model_dump(mode="json"),
            "prompt_attention_s": plan.timing.prompt_attention_s,
        },
    }
    if report.price is not None:
        row["cost_per_hour"] = report.cost_per_hour(deployment)
        row["cost_per_million_tokens"] = report.cost_per_million_tokens(deployment)
    return row


def _cells(report: Report, deployment: Deployment) -> list[str]:
    shape, seen = deployment.plan.shape, deployment.seen
    spares = deployment.num_replicas - seen.num_replicas
    cells = [
        f"{shape.tensor_parallel_size}",
        f"{shape.max_num_batched_tokens:,}",
        f"{shape.max_num_seqs}",
        f"{seen.num_replicas}+{spares}",
        f"{deployment.num_gpus}",
        f"{seen.ttft_p50_s:.2f} {seen.ttft_p99_s:5.2f}",
        f"{seen.itl_p50_s * 1000:.0f} {seen.itl_p99_s * 1000:3.0f}",
        f"{seen.kv_used_ratio * 100:.0f} {seen.kv_peak_ratio * 100:3.0f}",
        f"{deployment.plan.kv.max_concurrency:.1f}",
        f"{seen.goodput_rps / seen.num_replicas:.2f}",
    ]
    if (hourly := report.cost_per_hour(deployment)) is not None:
        cells += [f"{hourly:.2f}", f"{report.cost_per_million_tokens(deployment):.3f}"]
    return cells
