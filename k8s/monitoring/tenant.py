"""Tenants: who uses the fleet, what for, and does it hurt the others."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard

from k8s.monitoring.expressions import burn, increase, rate
from k8s.monitoring.panels import Column, Panel, Query, dashboard, graph, rows, stacked, variable

_MODELS = 'model=~"$model"'
_CHOSEN = f'{_MODELS}, tenant=~"$tenant"'
_REQUESTS = "galerne_gateway_tenant_requests_total"
_TOKENS = "galerne_engine_tenant_tokens_total"
_NO_MORE = "`other` is all tenants beyond the first 200 that a process has seen."


def build() -> Dashboard:
    """Who asks for how much."""
    sections = {
        "Who uses it?": _shares(),
        "When?": _course(),
        "Do the others suffer?": _others(),
    }
    variables = [
        variable("model", f"label_values({_REQUESTS}, model)", several=True),
        variable("tenant", f"label_values({_REQUESTS}{{{_MODELS}}}, tenant)", several=True),
    ]
    about = f"Who uses the fleet, and does it hurt the others? {_NO_MORE}"
    return dashboard("tenant", sections, about=about, variables=variables)


def _shares() -> Sequence[Panel]:
    everybodys = increase(_TOKENS, f'{_MODELS}, kind="output"', by="model")
    prompt, cached, output = (_tokens(kind) for kind in ("prompt", "cached", "output"))
    return (
        rows(
            "Tenants in the time shown",
            [
                Column("Requests", increase(_REQUESTS, _CHOSEN, by="tenant")),
                Column("Prompt tokens", prompt),
                Column("Cached", f"{cached} / ({prompt} > 0)", "percentunit"),
                Column("Output tokens", output),
                Column(
                    "Share of output",
                    f"{output} / on () group_left () sum({everybodys})",
                    "percentunit",
                ),
            ],
            about=f"Sort by a column to find who has grown. {_NO_MORE}",
            width=16,
        ),
        rows(
            "Classes in the time shown",
            [Column("Requests", increase(_REQUESTS, _CHOSEN, by="tenant_class, model"))],
            about="Requests by class and model.",
            width=8,
        ),
    )


def _tokens(kind: str) -> str:
    return increase(_TOKENS, f'{_CHOSEN}, kind="{kind}"', by="tenant")


def _tokens_per_s(kinds: str) -> str:
    return rate(_TOKENS, f'{_CHOSEN}, kind=~"{kinds}"', by="tenant")


def _course() -> Sequence[Panel]:
    computed = f"{_tokens_per_s('prompt|output')} - {_tokens_per_s('cached')}"
    cached = f"{_tokens_per_s('cached')} / ({_tokens_per_s('prompt')} > 0)"
    return (
        stacked(
            graph(
                "Requests",
                [Query(rate(_REQUESTS, _CHOSEN, by="tenant"), "{{tenant}}")],
                about="By tenant. A step of one tenant at the time of an alert is a suspect.",
                unit="reqps",
                width=12,
            )
        ),
        stacked(
            graph(
                "Tokens computed",
                [Query(computed, "{{tenant}}")],
                about="Prompt and output tokens per second, without cached ones: the work.",
                width=12,
            )
        ),
        stacked(
            graph(
                "Output tokens",
                [Query(_tokens_per_s("output"), "{{tenant}}")],
                about="Per second.",
                width=12,
            )
        ),
        graph(
            "Prompts cached",
            [Query(cached, "{{tenant}}")],
            about="Share of each tenant's prompt tokens. Prompts that begin with a time or a "
            "random id are never cached.",
            unit="percentunit",
            width=12,
        ).max(1),
    )


def _others() -> Sequence[Panel]:
    return (
        graph(
            "Burn rate, 1 h",
            [Query(burn("1h", _MODELS), "{{model}} {{slo}}")],
            about="Of the chosen models, all tenants together.",
            width=12,
            levels=(6, 14.4),
        ),
        graph(
            "Requests turned away",
            [Query(f"galerne:rejected_requests:rate5m{{{_MODELS}}}", "{{model}} {{code}}")],
            about="Of the chosen models, all tenants together.",
            unit="reqps",
            width=12,
        ),
    )
