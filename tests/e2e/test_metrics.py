"""A real Prometheus finds the whole fleet from one URL."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_tools import Prometheus, running_prometheus

from e2e.harness import EMBEDDER, ENDLESS, MODEL, NUM_GATEWAYS, Platform, chat, wait_until

SCRAPED_WITHIN_S = 90


@pytest.fixture(scope="module")
def prometheus(
    platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    printed = platform.run("metrics", "config")
    assert printed.returncode == 0, printed.stderr
    config = tmp_path_factory.mktemp("prometheus") / "prometheus.yml"
    config.write_text(printed.stdout.replace("scrape_interval: 5s", "scrape_interval: 1s"))
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


LONG = "Tell me about the sea, the ships on it, and the rivers that end there. " * 15
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
SEVERAL = {"model": MODEL, "prompt": [LONG, "One word:"], "n": 2, "max_tokens": 6}
CASES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    # The same twice: the second finds its prompt in the cache.
    "Équipe 1": 2 * [("/v1/chat/completions", chat(LONG))],
    "Équipe 2": 2 * [("/v1/chat/completions", chat(LONG, **STREAM))],
    "stopped": [("/v1/chat/completions", chat(LONG, max_tokens=40, stop=["e"], **STREAM))],
    "answers": [("/v1/chat/completions", chat(LONG, n=3, temperature=1, **STREAM))],
    "several": [("/v1/completions", SEVERAL), ("/v1/completions", {**SEVERAL, **STREAM})],
    "embedder": [("/v1/embeddings", {"model": EMBEDDER, "input": [LONG, "One word:"]})],
}


def reported(answer: httpx.Response) -> dict[str, int]:
    """The tokens of an answer's usage, as the metric calls them."""
    assert answer.status_code == 200, answer.text
    text = answer.text
    if text.startswith("data:"):
        *_, text, _done = text.strip().split("\n\n")
    usage = json.loads(text.removeprefix("data:"))["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    output = usage.get("completion_tokens", 0)
    return {"prompt": usage["prompt_tokens"], "cached": cached, "output": output}


def tokens_of(prometheus: Prometheus, tenant: str) -> dict[str, float]:
    """By kind."""
    rows = prometheus.query(f'galerne_engine_tenant_tokens_total{{tenant="{tenant}"}}')
    return {labels["kind"]: value for labels, value in rows}


@pytest.mark.parametrize("tenant", CASES)
def test_a_tenant_is_accounted_for_what_its_answers_report(
    platform: Platform, prometheus: Prometheus, tenant: str
) -> None:
    with platform.anonymous(
        headers={"authorization": f"Bearer {platform.create_key(tenant)}"}
    ) as client:
        usages = [reported(client.post(path, json=body)) for path, body in CASES[tenant]]
    expected = {kind: sum(usage[kind] for usage in usages) for kind in usages[0]}
    assert expected["prompt"] > 0
    if tenant.startswith("Équipe"):
        assert expected["cached"] > 0
    if tenant in ("answers", "several"):
        # Usage has what the cache did for one of the answers or prompts; here each prompt counts.
        del expected["cached"]
    wait_until(
        lambda: expected.items() <= tokens_of(prometheus, tenant).items(),
        timeout_s=SCRAPED_WITHIN_S,
        what=f"{expected} of {tenant}",
        period_s=0.5,
    )


@pytest.mark.parametrize("how", [{}, {"stream": True}], ids=["whole", "stream"])
def test_a_client_that_leaves_is_accounted_for(
    platform: Platform, prometheus: Prometheus, how: dict[str, Any]
) -> None:
    tenant = f"leaver {len(how)}"
    body = json.dumps(chat(LONG, **ENDLESS, **how)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: galerne\r\n"
        f"authorization: Bearer {platform.create_key(tenant)}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )

    def num_generated() -> int:
        return int(platform.engine()["state"]["load"]["output_tokens"])

    before = num_generated()
    with socket.create_connection(platform.address) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: num_generated() > before + 3, timeout_s=60, what="generating")
    tokens = wait_until(
        lambda: tokens_of(prometheus, tenant), timeout_s=SCRAPED_WITHIN_S, what="tokens"
    )
    assert tokens["prompt"] > 100
    assert 3 < tokens["output"] < ENDLESS["max_tokens"]


def test_a_replicas_start_and_seconds(prometheus: Prometheus) -> None:
    """No GPUs here."""

    def by_model(name: str, **labels: str) -> dict[str, float]:
        chosen = ",".join(f'{key}="{value}"' for key, value in labels.items())
        return {row["model"]: value for row, value in prometheus.query(f"{name}{{{chosen}}}")}

    name = "galerne_engine_start_seconds"
    phases = {
        phase: by_model(name, phase=phase) for phase in ("schedule", "weights", "load", "warm_up")
    }
    assert all(seconds.keys() == {MODEL, EMBEDDER} for seconds in phases.values()), phases
    assert min(phases["schedule"].values()) > 0
    assert min(phases["load"].values()) > 1
    for model, seconds in by_model("galerne_engine_replica_seconds_total").items():
        assert seconds > sum(spent[model] for spent in phases.values())
    assert set(by_model("galerne_engine_gpu_seconds_total").values()) == {0.0}


@pytest.mark.parametrize("path", ["/metrics", "/galerne/metric-targets"])
def test_an_api_key_does_not_open_metrics(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code in {401, 404}


def test_metrics_listeners_refuse_strangers(prometheus: Prometheus) -> None:
    urls = [target["scrapeUrl"] for target in prometheus.targets()]
    assert urls
    for url in urls:
        assert httpx.get(url).status_code == 401
