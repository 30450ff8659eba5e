"""A picture of a plan: which shapes serve the trace, and what more replicas bring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from serving.lab.deployment import (
    CHUNK_TOKENS,
    NUM_SPARES,
    TENSOR_PARALLEL_SIZES,
    Deployment,
    DeploymentQuestion,
    Ranking,
)
from serving.lab.fleet import Slo
from serving.lab.observation import Observation
from serving.planner.replica_plan import Shape

_GREY, _BLUE, _ORANGE, _GREEN = "#8a8f98", "#1f77b4", "#d9822b", "#2e8b57"


def draw(
    path: Path, question: DeploymentQuestion, ranking: Ranking, course: Sequence[Observation]
) -> None:
    """GPUs of every shape on the left, the best one's latencies by replicas on the right.

    Where no shape keeps the SLO, what stands against each is all there is.

    Args:
        course: the best one's, as `by_replicas` observes it.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    best = next(iter(ranking.deployments), None)
    if best is None:
        _draw_region(figure.subplots(), ranking)
    else:
        region, latencies = figure.subplots(1, 2, width_ratios=(5, 6))
        _draw_region(region, ranking)
        _draw_latencies(latencies, best, course, question.slo)
    figure.suptitle(_title(question, best), x=0.01, ha="left", fontsize=12)
    figure.savefig(path, dpi=120)


def _title(question: DeploymentQuestion, best: Deployment | None) -> str:
    demand = question.demand
    asked = (
        f"{demand.at_s.size:,} requests, {demand.at_s.size / demand.span_s:.2f} a second, on "
        f"{question.replica.gpu.name}: "
    )
    if best is None:
        return f"{asked}no deployment keeps the SLO"
    shape = best.plan.shape
    return (
        f"{asked}best is {best.num_replicas} replicas of "
        f"{shape.tensor_parallel_size} GPU{'s' * (shape.tensor_parallel_size > 1)}, chunks of "
        f"{shape.max_num_batched_tokens:,} tokens"
    )


class _Cell(NamedTuple):
    text: str
    face: Any
    ink: str


def _cells(ranking: Ranking) -> dict[tuple[int, int], _Cell]:
    """By tensor parallelism and chunk; of several numbers of sequences the best."""
    cells = {}
    for rejected in ranking.rejected:
        text = "too many\nGPUs" if rejected.by == "GPUs" else rejected.by
        cells[_place(rejected.shape)] = _Cell(text, "#eceef1", _GREY)
    gpus = [one.num_gpus for one in ranking.deployments] or [0]
    fewest, most = min(gpus), max(gpus)
    for one in reversed(ranking.deployments):
        share = (one.num_gpus - fewest) / max(most - fewest, 1)
        ink = "white" if share < 0.5 else "black"
        cells[_place(one.plan.shape)] = _Cell(f"{one.num_gpus}", _shade(share), ink)
    return cells


def _place(shape: Shape) -> tuple[int, int]:
    return shape.tensor_parallel_size, shape.max_num_batched_tokens


def _draw_region(axes: Axes, ranking: Ranking) -> None:
    """A cell for each tensor parallelism and chunk: GPUs, or what stands against it."""
    for (size, chunk), cell in _cells(ranking).items():
        place = (CHUNK_TOKENS.index(chunk), TENSOR_PARALLEL_SIZES.index(size))
        axes.add_patch(_square(place, cell.face))
        look = {"fontsize": 15, "fontweight": "bold"} if cell.text.isdigit() else {"fontsize": 9}
        axes.text(*place, cell.text, ha="center", va="center", color=cell.ink, **look)
    for best in ranking.deployments[:1]:
        size, chunk = _place(best.plan.shape)
        place = (CHUNK_TOKENS.index(chunk), TENSOR_PARALLEL_SIZES.index(size))
        axes.add_patch(_square(place, "none", edge=_ORANGE))
    axes.set_xlim(-0.5, len(CHUNK_TOKENS) - 0.5)
    axes.set_ylim(-0.5, len(TENSOR_PARALLEL_SIZES) - 0.5)
    axes.set_xticks(range(len(CHUNK_TOKENS)), [f"{chunk:,}" for chunk in CHUNK_TOKENS])
    axes.set_yticks(range(len(TENSOR_PARALLEL_SIZES)), [f"{n}" for n in TENSOR_PARALLEL_SIZES])
    axes.set_xlabel("max_num_batched_tokens")
    axes.set_ylabel("GPUs of a replica")
    axes.set_title("GPUs that keep the SLO, or what is missed", loc="left", fontsize=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_latencies(axes: Axes, best: Deployment, course: Sequence[Observation], slo: Slo) -> None:
    """99th percentiles as shares of what the SLO allows."""
    numbers = [seen.num_replicas for seen in course]
    looks: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.5}
    for name, limit, values, colour in (
        ("TTFT p99", slo.ttft_s, [seen.ttft_p99_s for seen in course], _BLUE),
        ("ITL p99", slo.itl_s, [seen.itl_p99_s for seen in course], _GREEN),
    ):
        if limit < float("inf"):
            shares = [value / limit for value in values]
            label = f"{name}, of {limit:g} s"
            axes.plot(numbers, shares, color=colour, label=label, **looks)
    axes.axhline(1.0, color="black", linewidth=0.9, linestyle="--")
    axes.text(numbers[-1], 1.04, "SLO", ha="right", va="bottom", fontsize=9)
    needed = best.seen.num_replicas
    axes.axvspan(needed, needed + NUM_SPARES, color=_ORANGE, alpha=0.15, linewidth=0)
    axes.axvline(needed, color=_ORANGE, linewidth=1)
    axes.text(
        needed + NUM_SPARES / 2, 0.99, "spare", color=_ORANGE, fontsize=9, ha="center", va="top",
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlim(numbers[0] - 0.3, numbers[-1] + 0.3)
    axes.xaxis.set_major_locator(FixedLocator(numbers))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("replicas that serve")
    axes.set_ylabel("share of the SLO")
    axes.set_title("The best shape's latencies", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _square(place: tuple[int, int], face: Any, *, edge: str = "white") -> Rectangle:
    column, row = place
    return Rectangle(
        (column - 0.47, row - 0.46), 0.94, 0.92, facecolor=face, edgecolor=edge, linewidth=2.5
    )


def _shade(share: float) -> tuple[float, float, float]:
    """From deep green for 0 to pale for 1."""
    return 0.12 + 0.70 * share, 0.44 + 0.47 * share, 0.29 + 0.55 * share
