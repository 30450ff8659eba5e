"""The dashboard to open first: is it users or machines, which model, since when."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard

from k8s.monitoring.expressions import burn, highest, rate, total
from k8s.monitoring.panels import Column, Panel, Query, dashboard, graph, rows

_LABELS = "severity, alertname, model, slo, reason, component, instance"
_SINCE_MS = f"""\
max by ({_LABELS}) (
  1000 * ALERTS_FOR_STATE{{alertname=~"Galerne.*"}}
  and ignoring (alertstate) ALERTS{{alertname=~"Galerne.*", alertstate="firing"}}
)"""
_PROCESSES = 'max by (component, replica, instance) (up{component=~"gateway|engine|autoscaler"})'
_TO_MODEL = (
    "/d/galerne-model?var-datasource=${datasource}&var-model=${__value.raw}"
    "&from=${__from}&to=${__to}"
)
_DESIRED = highest("galerne_scaling_desired_replicas")
_HEARD = highest("galerne_gateway_replicas", 'state="heard"')
_READY = highest("galerne_scaling_ready_replicas")


def build() -> Dashboard:
    """All models and all machines."""
    sections = {
        "Do users feel it, which model, since when?": (*_tables(), *_burning(), *_waiting()),
        "Is it the machines?": (*_replicas(), *_pressure()),
        "What is asked of them, and what does it take?": _work(),
    }
    about = "Is it users or machines, which model, since when? The model's own dashboard tells why."
    return dashboard("fleet", sections, about=about)


def _tables() -> Sequence[Panel]:
    return (
        rows(
            "Firing alerts",
            [Column("Since", _SINCE_MS, unit="dateTimeFromNow")],
            about="Pages speak of users, tickets of what will reach them. docs/runbook.md has a "
            "section for each.",
            links={"model": _TO_MODEL},
        ),
        rows(
            "Models",
            [
                Column("Burn rate", f"max by (model) ({burn('1h')})", levels=(1, 6)),
                Column("Requests/s", "galerne:requests:rate5m"),
                Column(
                    "Failed", "galerne:failed_requests:ratio_rate5m", "percentunit", (0.001, 0.01)
                ),
                Column("TTFT p99", "galerne:client_ttft_seconds:p99", "s"),
                Column("ITL p99", "galerne:itl_seconds:p99", "s"),
                Column("Heard", _HEARD),
                Column("Wanted", _DESIRED),
                Column("KV used", "galerne:kv_usage_ratio:avg", "percentunit", (0.8, 0.9)),
            ],
            about="One row per model; click a model to look closer. A row without a model is of "
            "requests that failed before theirs was known. The burn rate is that of the worst "
            "objective within the last hour; heard are the replicas that answer gateways.",
            links={"model": _TO_MODEL},
        ),
    )


def _burning() -> Sequence[Panel]:
    return (
        graph(
            "Error budget burn rate, 1 h",
            [Query(burn("1h"), "{{model}} {{slo}}")],
            about="How many times faster than allowed the error budget is spent. Above 1 the "
            "objective of 30 days is missed if it goes on; above 6 for six hours, or 14.4 for one, "
            "somebody is paged.",
            levels=(6, 14.4),
        ),
        graph(
            "Requests failed",
            [Query("galerne:failed_requests:ratio_rate5m", "{{model}}")],
            about="Share of requests answered with 5xx, or broken off after their status was sent.",
            unit="percentunit",
            levels=(0.01, 0.1),
        ),
        graph(
            "Requests turned away",
            [Query("galerne:rejected_requests:rate5m", "{{model}} {{code}}")],
            about="Told to come back later, by code. `engine_overloaded`: the queue is full. "
            "`model_not_ready`: no replica. `gateway_overloaded`: too few gateways.",
            unit="reqps",
        ),
    )


def _waiting() -> Sequence[Panel]:
    return (
        graph(
            "TTFT p99, as clients see it",
            [Query("galerne:client_ttft_seconds:p99", "{{model}}")],
            about="From the request's head to the first byte of its answer, successes only.",
            unit="s",
        ),
        graph(
            "ITL p99",
            [Query("galerne:itl_seconds:p99", "{{model}}")],
            about="Gaps between two tokens of a request, as engines see them.",
            unit="s",
        ),
        graph(
            "Requests",
            [Query("galerne:requests:rate5m", "{{model}}")],
            about="Finished requests. A fall without failures is users, or what stands before us.",
            unit="reqps",
        ),
    )


def _replicas() -> Sequence[Panel]:
    return (
        graph(
            "Replicas missing",
            [Query(f"clamp_min({_DESIRED} - {_READY}, 0)", "{{model}}")],
            about="Ordered by the autoscaler, not ready. A cold start is normal, hours are not.",
        ),
        graph(
            "Replicas that gateways do not hear",
            [
                Query(
                    highest("galerne_gateway_replicas", 'state!="heard"', by="model, state"),
                    "{{model}} {{state}}",
                )
            ],
            about="Silent for 3 s, lost for 15 s: hung, dead, or cut off from a gateway.",
            levels=(1, 2),
        ),
        graph(
            "Processes not scraped",
            [
                Query(
                    f"count by (component) ({_PROCESSES} == 0)"
                    f" or 0 * count by (component) ({_PROCESSES})",
                    "{{component}}",
                )
            ],
            about="Listed for Prometheus, but not answering it. If all gateways are among them, "
            "nothing on this page is true.",
            levels=(1, 2),
        ),
    )


def _pressure() -> Sequence[Panel]:
    return (
        graph(
            "KV caches used",
            [Query("galerne:kv_usage_ratio:avg", "{{model}}")],
            about="On average of a model's replicas. Above 90 % engines preempt.",
            unit="percentunit",
            levels=(0.8, 0.9),
        ).max(1),
        graph(
            "Requests waiting",
            [
                Query("galerne:waiting_requests:sum", "{{model}} in engines"),
                Query(total("galerne_gateway_queued_requests"), "{{model}} in gateways"),
            ],
            about="Admitted, but not running. In engines they have a replica, in gateways none.",
        ),
        graph(
            "Streams resumed and requests retried",
            [
                Query(rate("galerne_gateway_resumes_total"), "{{model}} resumed"),
                Query(rate("galerne_gateway_retries_total"), "{{model}} retried"),
            ],
            about="Resumed: the replica was lost in the middle of an answer. Retried: it was full, "
            "draining or gone before the answer began.",
            unit="ops",
        ),
    )


def _work() -> Sequence[Panel]:
    return (
        graph(
            "Tokens",
            [
                Query("galerne:prompt_tokens:rate5m", "{{model}} prompt"),
                Query("galerne:output_tokens:rate5m", "{{model}} output"),
            ],
            about="Per second. Prompt tokens include cached ones.",
        ),
        graph(
            "Prompts cached",
            [Query("galerne:cached_prompt_tokens:ratio_rate5m", "{{model}}")],
            about="Share of prompt tokens found in prefix caches. A fall makes prompts dearer.",
            unit="percentunit",
        ).max(1),
        graph(
            "GPUs held",
            [Query(rate("galerne_engine_gpu_seconds_total"), "{{model}}")],
            about="GPU seconds per second, from a replica's order on: what it costs.",
        ),
    )
