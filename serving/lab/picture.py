"""A picture of an experiment: what was asked, what was there, what clients saw."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from serving.lab.comparison import Comparison
from serving.lab.contenders import work_of
from serving.lab.replay import Floats
from serving.lab.scaling import Course

_COLOURS = {
    "ray_default": "#b0b0b0", "ray_default_tuned": "#d08770", "keda_threshold": "#b48ead",
    "slo": "#1f77b4", "oracle": "#2e8b57",
}  # fmt: skip
_BLOCK_S = 60.0


def draw(path: Path, comparison: Comparison) -> None:
    """Demand and replicas of every policy above, the TTFT of its clients below.

    Raises:
        OSError: the file cannot be written.
    """
    bench, courses = comparison.bench, comparison.courses
    setting, capacity = bench.setting, bench.replica.capacity
    figure = Figure(figsize=(12, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    needed = capacity.replicas_for(work_of(setting.demand, capacity, _BLOCK_S))
    hours = np.arange(needed.size) * _BLOCK_S / 3600
    above.fill_between(hours, needed, step="post", color="#e8e8e8", label="demand (1 min)")
    for name, course in courses.items():
        look: dict[str, Any] = {"color": _COLOURS.get(name), "linewidth": 1.2, "label": name}
        above.step(np.array(course.at_s) / 3600, course.held, where="post", **look)
        below.plot(hours, _ttft_p99_s(course, needed.size), **look)
    above.set_ylabel("replicas")
    above.legend(ncols=3, frameon=False, loc="upper left")
    above.set_ylim(0, 1.25 * max(max(course.held) for course in courses.values()))
    below.axhline(setting.slo.ttft_s, color="black", linewidth=0.8, linestyle="--")
    below.set_ylabel("TTFT p99 of each minute, s")
    below.set_yscale("log")
    below.set_xlabel("hours")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _ttft_p99_s(course: Course, num_blocks: int) -> Floats:
    """[num_blocks]: of the requests that arrived in each; `nan` where there were none."""
    requests = course.fleet.state.requests
    ttft_s = requests.first_token_s - requests.at_s
    edges = np.searchsorted(requests.at_s, np.arange(num_blocks + 1) * _BLOCK_S)
    return np.array(
        [
            np.quantile(ttft_s[begin:end], 0.99, method="higher") if end > begin else np.nan
            for begin, end in pairwise(edges)
        ]
    )
