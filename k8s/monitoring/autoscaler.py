"""The autoscaler of one model: does it decide, what does it want and why, from which figures."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard

from k8s.monitoring.expressions import MODEL, burn, highest, increase, rate, total
from k8s.monitoring.panels import Panel, Query, dashboard, figure, graph, stacked, variable

_DECIDED_S = f"time() - {highest('galerne_scaling_last_decision_timestamp_seconds', MODEL)}"
_AGE_S = highest("galerne_scaling_signals_age_seconds", MODEL)


def build() -> Dashboard:
    """What one model's autoscaler does."""
    sections = {
        "Does it decide, and from good figures?": _health(),
        "What does it want, and why?": _decisions(),
        "What does it see?": _signals(),
        "What comes of it?": _results(),
    }
    model = variable("model", "label_values(galerne_scaling_desired_replicas, model)")
    about = "Does the autoscaler decide, what does it want and why, and do its replicas come?"
    return dashboard("autoscaler", sections, about=about, variables=[model])


def _health() -> Sequence[Panel]:
    return (
        figure(
            "Last decision",
            [Query(_DECIDED_S)],
            about="Seconds ago. Beyond two minutes it stands still.",
            unit="s",
            levels=(30, 120),
        ),
        figure(
            "Age of its figures",
            [Query(_AGE_S)],
            about="Beyond a minute it goes by what replicas tell gateways.",
            unit="s",
            levels=(30, 60),
        ),
        figure(
            "Withheld",
            [Query(highest("galerne_scaling_withheld_replicas", MODEL))],
            about="Replicas it wants beyond the GPU budget.",
            levels=(1, 2),
        ),
        figure(
            "Cold start",
            [Query(highest("galerne_scaling_cold_start_seconds", MODEL))],
            about="From a replica's order until it is ready, as learned: how far it looks ahead.",
            unit="s",
        ),
        figure(
            "Capacity",
            [Query(highest("galerne_scaling_capacity_ratio", MODEL))],
            about="Of what was measured, as learned from late tokens. Well below 100 %: measure "
            "again.",
            unit="percentunit",
        ),
        figure(
            "Changes in the time shown",
            [
                Query(
                    increase("galerne_scaling_changes_total", MODEL, by="direction"),
                    "{{direction}}",
                )
            ],
            about="Many of both: it flaps.",
        ).decimals(0),
    )


def _decisions() -> Sequence[Panel]:
    return (
        graph(
            "Replicas",
            [
                Query(highest("galerne_scaling_desired_replicas", MODEL), "wanted"),
                Query(highest("galerne_scaling_ready_replicas", MODEL), "ready"),
                Query(highest("galerne_scaling_withheld_replicas", MODEL), "withheld"),
            ],
            about="Ready follows wanted by a cold start upwards, by a drain downwards.",
            width=12,
        ),
        graph(
            "Needs",
            [Query(highest("galerne_scaling_needed_replicas", MODEL, by="need"), "{{need}}")],
            about="The greatest counts. demand: what is expected a cold start from now. backlog: "
            "prompts that wait. kv: room in caches. wake: requests for a sleeping model. running: "
            "what there was at its own start. floor: the lower bound.",
            width=12,
        ),
    )


def _signals() -> Sequence[Panel]:
    return (
        graph(
            "Tokens",
            [
                Query(rate("galerne_gateway_prompt_tokens_total", MODEL), "prompts arriving"),
                Query(f"galerne:output_tokens:rate5m{{{MODEL}}}", "output"),
            ],
            about="Per second: the demand it forecasts.",
            width=6,
        ),
        graph(
            "Prompt tokens waiting",
            [Query(total("galerne_engine_waiting_tokens", MODEL), "in engines")],
            about="That no engine step has computed yet: the backlog.",
            width=6,
        ),
        graph(
            "KV caches used",
            [Query(f"galerne:kv_usage_ratio:avg{{{MODEL}}}", "average")],
            about="Above 90 % engines preempt.",
            unit="percentunit",
            width=6,
            levels=(0.8, 0.9),
        ).max(1),
        graph(
            "Figures it did not use",
            [Query(rate("galerne_scaling_troubles_total", MODEL, by="reason"), "{{reason}}")],
            about="By reason. Without good figures it keeps the last target, and never sends the "
            "last replica away.",
            unit="ops",
            width=6,
        ),
    )


def _results() -> Sequence[Panel]:
    phases = highest("galerne_engine_start_seconds", MODEL, by="replica, phase")
    return (
        graph(
            "Burn rate, 1 h",
            [Query(burn("1h", MODEL), "{{slo}}")],
            about="What users get of it. High while replicas are missing: it was late.",
            levels=(6, 14.4),
        ),
        stacked(
            graph(
                "What a start takes",
                [Query(f"avg by (phase) ({phases})", "{{phase}}")],
                about="Average of the replicas there are. schedule: placed on a machine. weights: "
                "fetched and verified. load: into the engine. warm_up: until ready.",
                unit="s",
            )
        ),
        graph(
            "GPUs held",
            [Query(rate("galerne_engine_gpu_seconds_total", MODEL), "GPUs")],
            about="GPU seconds per second, from a replica's order on: what it costs.",
        ),
    )
