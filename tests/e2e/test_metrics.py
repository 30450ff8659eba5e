"""A real Prometheus finds the whole fleet from one URL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from prometheus_tools import Prometheus, running_prometheus

from e2e.harness import EMBEDDER, MODEL, NUM_GATEWAYS, Platform, chat, wait_until

SCRAPED_WITHIN_S = 90


@pytest.fixture(scope="module")
def prometheus(
    platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    printed = platform.run("metrics", "config")
    assert printed.returncode == 0, printed.stderr
    config = tmp_path_factory.mktemp("prometheus") / "prometheus.yml"
    config.write_text(printed.stdout.replace("scrape_interval: 15s", "scrape_interval: 1s"))
    with running_prometheus(config) as server:
        yield server


def test_every_process_is_found_and_scraped(prometheus: Prometheus) -> None:
    def all_up() -> bool:
        targets = prometheus.targets()
        return bool(targets) and all(target["health"] == "up" for target in targets)

    wait_until(all_up, timeout_s=SCRAPED_WITHIN_S, what="every target up", period_s=0.5)
    labels = [target["labels"] for target in prometheus.targets()]
    assert Counter((row["component"], row.get("deployed_model", "")) for row in labels) == {
        ("gateway", ""): NUM_GATEWAYS,
        ("engine", MODEL): 1,
        ("engine", EMBEDDER): 1,
    }


def test_a_request_is_counted_by_gateway_and_engine(
    prometheus: Prometheus, client: httpx.Client
) -> None:
    """vLLM's own metrics keep their names."""
    generated = "sum(vllm:generation_tokens_total)"
    served = f'sum(galerne_gateway_requests_total{{model="{MODEL}",status="200"}})'

    def total(expression: str) -> float:
        return sum(value for _, value in prometheus.query(expression))

    tokens_before, served_before = total(generated), total(served)
    assert client.post("/v1/chat/completions", json=chat(max_tokens=5)).status_code == 200
    for expression, before in ((generated, tokens_before), (served, served_before)):
        wait_until(
            lambda e=expression, b=before: total(e) > b,
            timeout_s=SCRAPED_WITHIN_S,
            what=f"{expression} beyond {before}",
            period_s=0.5,
        )


@pytest.mark.parametrize("path", ["/metrics", "/galerne/metric-targets"])
def test_an_api_key_does_not_open_metrics(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code in {401, 404}


def test_metrics_listeners_refuse_strangers(prometheus: Prometheus) -> None:
    urls = [target["scrapeUrl"] for target in prometheus.targets()]
    assert urls
    for url in urls:
        assert httpx.get(url).status_code == 401
