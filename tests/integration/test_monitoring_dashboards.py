"""Dashboards are what their code says, and ask for metrics that exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monitoring_queries import dashboards, expressions, metric_names_in, raw_metric_names
from prometheus_tools import Prometheus, running_prometheus

from k8s.monitoring.generate import generated

ROOT = Path(__file__).parents[2]
METRICS = {
    "galerne_gateway_arrived_requests_total",
    "galerne_gateway_lost_access_log_lines_total",
    "galerne_gateway_predicted_hit_tokens_total",
    "galerne_gateway_prompt_tokens_total",
    "galerne_gateway_queue_wait_seconds_bucket",
    "galerne_gateway_queued_requests",
    "galerne_gateway_reading_seconds_bucket",
    "galerne_gateway_replicas",
    "galerne_gateway_request_duration_seconds_bucket",
    "galerne_gateway_requests_total",
    "galerne_gateway_resumes_total",
    "galerne_gateway_retries_total",
    "galerne_gateway_slo_events_total",
    "galerne_gateway_slo_objective_ratio",
    "galerne_gateway_tenant_requests_total",
    "galerne_gateway_time_to_first_byte_seconds_bucket",
    "galerne_engine_draining",
    "galerne_engine_gpu_seconds_total",
    "galerne_engine_refusals_total",
    "galerne_engine_start_seconds",
    "galerne_engine_tenant_tokens_total",
    "galerne_engine_waiting_tokens",
    "galerne_scaling_capacity_ratio",
    "galerne_scaling_changes_total",
    "galerne_scaling_cold_start_seconds",
    "galerne_scaling_desired_replicas",
    "galerne_scaling_last_decision_timestamp_seconds",
    "galerne_scaling_needed_replicas",
    "galerne_scaling_ready_replicas",
    "galerne_scaling_signals_age_seconds",
    "galerne_scaling_troubles_total",
    "galerne_scaling_withheld_replicas",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:generation_tokens_total",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:prompt_tokens_cached_total",
    "vllm:prompt_tokens_total",
    "vllm:request_decode_time_seconds_bucket",
    "vllm:request_prefill_time_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket",
    "vllm:request_time_per_output_token_seconds_bucket",
    "vllm:time_to_first_token_seconds_bucket",
}
"""What gateways, engines and the autoscaler tell of themselves, as far as anything asks for it."""
PROMETHEUS_OWN = {"ALERTS", "ALERTS_FOR_STATE", "up"}


@pytest.fixture(scope="module")
def empty_prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    config = tmp_path_factory.mktemp("prometheus") / "prometheus.yml"
    config.write_text("global: {}\n")
    with running_prometheus(config) as server:
        yield server


def panels() -> dict[str, dict[str, Any]]:
    """All panels but the titles of sections, by where they stand."""
    return {
        f"{name}: {panel['title']}": panel
        for name, document in dashboards().items()
        for panel in document["panels"]
        if panel["type"] != "row"
    }


@pytest.mark.parametrize(("path", "content"), generated().items(), ids=[*map(str, generated())])
def test_committed_files_are_what_the_generator_gives(path: Path, content: str) -> None:
    """`python -m k8s.monitoring.generate` writes them."""
    assert (ROOT / path).read_text() == content


def test_no_file_is_left_of_a_dashboard_that_is_gone() -> None:
    folders = {path.parent for path in generated()}
    assert {path for path in generated() if path.suffix == ".json"} == {
        path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).glob("*.json")
    }


@pytest.mark.parametrize("expression", expressions().values(), ids=expressions())
def test_every_expression_parses_and_has_no_variable_left(expression: str) -> None:
    assert "$" not in expression.replace('"$1"', "")
    assert metric_names_in(expression)


def test_metric_names_are_found_wherever_they_stand() -> None:
    expression = """
        histogram_quantile(0.9, sum by (le) (rate(a_bucket{b="c"}[5m]))) > on (d) -e:f
        unless max_over_time((g + 1)[1h:5m]) and absent(h offset 5m)
    """
    assert metric_names_in(expression) == {"a_bucket", "e:f", "g", "h"}


def test_rules_and_dashboards_ask_only_for_metrics_that_exist() -> None:
    assert raw_metric_names() - PROMETHEUS_OWN == METRICS


def test_prometheus_evaluates_every_expression(empty_prometheus: Prometheus) -> None:
    refused = {}
    for where, expression in expressions().items():
        try:
            empty_prometheus.query(expression)
        except ValueError as error:
            refused[where] = str(error)
    assert refused == {}


def test_dashboards_have_names_that_last() -> None:
    assert {name: document["uid"] for name, document in dashboards().items()} == {
        name: f"galerne-{name}" for name in ("autoscaler", "fleet", "model", "tenant")
    }


@pytest.mark.parametrize("panel", panels().values(), ids=panels())
def test_every_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"]
    assert panel["datasource"]["uid"] == "${datasource}"
    place = panel["gridPos"]
    assert place["x"] + place["w"] <= 24


def test_panels_do_not_overlap() -> None:
    for name, document in dashboards().items():
        taken = [
            (x, y)
            for panel in document["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(taken) == len(set(taken)), name
