"""One model: do its users suffer, and where in the platform is that made."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard

from k8s.monitoring.expressions import (
    MODEL,
    VLLM_MODEL,
    burn,
    highest,
    quantile,
    rate,
    total,
)
from k8s.monitoring.panels import (
    Panel,
    Query,
    dashboard,
    figure,
    graph,
    stacked,
    variable,
)


def build() -> Dashboard:
    """What a model's users get, and what its replicas do."""
    sections = {
        "Do its users suffer?": (*_figures(), *_users()),
        "Where does their time go?": _time(),
        "Is it the load?": _load(),
        "Is it a replica?": (*_replicas(), *_losses()),
    }
    model = variable("model", "label_values(galerne_gateway_slo_objective_ratio, model)")
    about = "Read it from above: what users see, which stage takes the time, load, single replicas."
    return dashboard("model", sections, about=about, variables=[model])


def _figures() -> Sequence[Panel]:
    return (
        figure(
            "Burn rate, 1 h",
            [Query(burn("1h", MODEL), "{{slo}}")],
            about="How many times faster than allowed each error budget is spent.",
            width=8,
            levels=(1, 6),
        ),
        figure(
            "Objective",
            [Query(f"galerne:slo_objective:ratio{{{MODEL}}}")],
            about="Share of good events promised, the same for ttft, itl and availability.",
            unit="percentunit",
        ),
        figure(
            "Requests",
            [Query(f"galerne:requests:rate5m{{{MODEL}}}")],
            about="Finished requests.",
            unit="reqps",
        ),
        figure(
            "Failed",
            [Query(f"galerne:failed_requests:ratio_rate5m{{{MODEL}}}")],
            about="Answered with 5xx, or broken off after their status was sent.",
            unit="percentunit",
            levels=(0.001, 0.01),
        ),
        figure(
            "Replicas heard",
            [Query(highest("galerne_gateway_replicas", f'{MODEL}, state="heard"'))],
            about="By the gateway that hears most.",
        ),
    )


def _users() -> Sequence[Panel]:
    return (
        graph(
            "Burn rate",
            [
                Query(burn("5m", MODEL), "{{slo}} 5 min"),
                Query(burn("1h", MODEL), "{{slo}} 1 h"),
            ],
            about="Both above 14.4: a page. The shorter window tells whether it is over.",
            levels=(6, 14.4),
        ),
        stacked(
            graph(
                "Answers other than success",
                [Query(f'galerne:answers:rate5m{{{MODEL}, code!=""}}', "{{status}} {{code}}")],
                about="By status and error code. 200 with a code: broken off in the middle.",
                unit="reqps",
            )
        ),
        graph(
            "TTFT",
            [
                Query(f"galerne:client_ttft_seconds:p99{{{MODEL}}}", "clients p99"),
                Query(f"galerne:ttft_seconds:p99{{{MODEL}}}", "engines p99"),
                Query(f"galerne:client_ttft_seconds:p50{{{MODEL}}}", "clients p50"),
                Query(f"galerne:ttft_seconds:p50{{{MODEL}}}", "engines p50"),
            ],
            about="Clients wait longer than engines take: the time goes in gateways. Both long: "
            "in engines.",
            unit="s",
        ),
    )


def _p99(histogram: str, legend: str) -> Query:
    selector = VLLM_MODEL if histogram.startswith("vllm:") else MODEL
    return Query(quantile(0.99, histogram, selector), legend)


def _time() -> Sequence[Panel]:
    return (
        graph(
            "Before the first token, p99 of each stage",
            [
                _p99("galerne_gateway_reading_seconds", "prompt read"),
                _p99("galerne_gateway_queue_wait_seconds", "no room"),
                Query(
                    quantile(0.99, "vllm:request_queue_time_seconds", VLLM_MODEL), "engine queue"
                ),
                _p99("vllm:request_prefill_time_seconds", "prefill"),
            ],
            about="In order: reading the prompt in the gateway, waiting there for room on a "
            "replica, waiting in the engine, prefill. The highest line is where to look.",
            unit="s",
            width=12,
        ),
        graph(
            "Between tokens",
            [
                Query(f"galerne:itl_seconds:p99{{{MODEL}}}", "ITL p99"),
                Query(f"galerne:tpot_seconds:p99{{{MODEL}}}", "TPOT p99"),
                Query(f"galerne:itl_seconds:p50{{{MODEL}}}", "ITL p50"),
            ],
            about="ITL far above TPOT: short stalls, as of long prompts or preemptions. Both high: "
            "too many requests at once.",
            unit="s",
            width=6,
        ),
        graph(
            "Whole request",
            [
                Query(f"galerne:e2e_seconds:p99{{{MODEL}}}", "engines p99"),
                Query(
                    quantile(0.99, "galerne_gateway_request_duration_seconds", MODEL), "clients p99"
                ),
                _p99("vllm:request_decode_time_seconds", "decode p99"),
            ],
            about="Long answers are long requests; compare with the tokens below.",
            unit="s",
            width=6,
        ),
    )


def _load() -> Sequence[Panel]:
    return (
        graph(
            "Requests arriving and ending",
            [
                Query(rate("galerne_gateway_arrived_requests_total", MODEL), "admitted"),
                Query(f"galerne:requests:rate5m{{{MODEL}}}", "ended"),
            ],
            about="Admitted above ended: a queue grows somewhere.",
            unit="reqps",
            width=6,
        ),
        graph(
            "Tokens",
            [
                Query(rate("galerne_gateway_prompt_tokens_total", MODEL), "prompts arriving"),
                Query(f"galerne:prompt_tokens:rate5m{{{MODEL}}}", "prompts read by engines"),
                Query(f"galerne:cached_prompt_tokens:rate5m{{{MODEL}}}", "of these cached"),
                Query(f"galerne:output_tokens:rate5m{{{MODEL}}}", "output"),
            ],
            about="Per second. Output that falls while prompts arrive: engines are busy reading.",
            width=6,
        ),
        graph(
            "Requests under way",
            [
                Query(total("galerne_gateway_queued_requests", MODEL), "wait in gateways"),
                Query(f"galerne:waiting_requests:sum{{{MODEL}}}", "wait in engines"),
                Query(total("vllm:num_requests_running", VLLM_MODEL, by="model_name"), "run"),
            ],
            about="More that wait than run: more replicas are needed, or fewer requests.",
            width=6,
        ),
        graph(
            "Prompts cached",
            [
                Query(f"galerne:cached_prompt_tokens:ratio_rate5m{{{MODEL}}}", "found"),
                Query(
                    f"{rate('galerne_gateway_predicted_hit_tokens_total', MODEL)}"
                    f" / ({rate('galerne_gateway_prompt_tokens_total', MODEL)} > 0)",
                    "predicted",
                ),
            ],
            about="Share of prompt tokens. Found far below predicted: caches are too small, or "
            "gateways know them badly.",
            unit="percentunit",
            width=6,
        ).max(1),
    )


def _replicas() -> Sequence[Panel]:
    return (
        graph(
            "KV cache used",
            [Query(highest("vllm:kv_cache_usage_perc", VLLM_MODEL, by="replica"), "{{replica}}")],
            about="One far above the others: prompts are routed unevenly.",
            unit="percentunit",
            levels=(0.8, 0.9),
        ).max(1),
        graph(
            "ITL p99",
            [
                Query(
                    quantile(0.99, "vllm:inter_token_latency_seconds", VLLM_MODEL, by="replica"),
                    "{{replica}}",
                )
            ],
            about="One replica far above the others is a bad machine.",
            unit="s",
        ),
        graph(
            "Output tokens",
            [Query(rate("vllm:generation_tokens_total", VLLM_MODEL, by="replica"), "{{replica}}")],
            about="Per second. None, with requests running: the replica hangs.",
        ),
        graph(
            "Requests running and waiting",
            [
                Query(
                    total("vllm:num_requests_running", VLLM_MODEL, by="replica"), "{{replica}} run"
                ),
                Query(
                    total("vllm:num_requests_waiting", VLLM_MODEL, by="replica"), "{{replica}} wait"
                ),
            ],
            about="Waiting at one replica while others have room: routing, or a warm cache there.",
        ),
    )


def _losses() -> Sequence[Panel]:
    return (
        graph(
            "Preemptions and refusals",
            [
                Query(rate("vllm:num_preemptions_total", VLLM_MODEL, by="replica"), "{{replica}}"),
                Query(
                    rate("galerne_engine_refusals_total", MODEL, by="replica, reason"),
                    "{{replica}} {{reason}}",
                ),
            ],
            about="A preempted request is computed again later; a refused one goes elsewhere.",
            unit="ops",
        ),
        graph(
            "Replicas as gateways hear them",
            [
                Query(
                    highest("galerne_gateway_replicas", MODEL, by="state"),
                    "{{state}}",
                ),
                Query(total("galerne_engine_draining", MODEL), "draining"),
                Query(rate("galerne_gateway_resumes_total", MODEL), "streams resumed/s"),
            ],
            about="Silent, lost and resumed streams together: a replica died at that moment.",
        ),
    )
