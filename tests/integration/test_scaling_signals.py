"""The scaling query against a real Prometheus, and against bad ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_tools import running_prometheus

from loadtest.processes import free_port
from serving.adapters.prometheus_signals import PrometheusSignals
from serving.core.types import ModelId, TenantId
from serving.gateway.load_metrics import LoadMetrics
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.slo import SloMetrics
from serving.scaling.signals import Signals
from serving.settings.scaling import SloSettings
from serving.tenancy.classes import TenantClasses
from serving.tenancy.shared_bytes import SharedBytes

MODEL = ModelId("m")
FOUND_WITHIN_S = 30.0


class Queue:
    """Three requests wait at each gateway."""

    def num_in_flight(self, model: ModelId) -> int:
        return 5

    def num_queued(self, model: ModelId) -> int:
        return 3

    def queued_tokens(self, model: ModelId) -> int:
        return 300

    def num_replicas(self, model: ModelId) -> dict[str, int]:
        return {"heard": 2}


@contextmanager
def answering(body: Callable[[], bytes], *, status: int = 200) -> Iterator[int]:
    """A server that answers everything so; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Gateway:
    """A gateway's real metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = GatewayMetrics(self.registry, [MODEL], TenantClasses({"gold": ["ann"]}))
        self.slos = SloMetrics({MODEL: SloSettings()})
        self.registry.register(self.slos)
        self.registry.register(LoadMetrics([MODEL], Queue(), SharedBytes(1)))

    def serve(self, number: int) -> None:
        """So many requests of 100 tokens, of which 40 are cached; every tenth is late."""
        for _ in range(number):
            self.metrics.arrived(MODEL, TenantId("ann"))
            self.metrics.sent(MODEL, 100, 40)
            self.metrics.wanted(MODEL)
        counts = self.slos.counts[MODEL]
        counts.num_late_firsts += number // 10
        counts.num_good_firsts += number - number // 10

    def refuse(self, number: int) -> None:
        """So many more, which wait in vain."""
        for _ in range(number):
            self.metrics.arrived(MODEL, TenantId("ann"))
            self.metrics.wanted(MODEL)


class Engine:
    """What of an engine's metrics counts here, under vLLM's names."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["model_name", "engine"]
        tokens = Counter("vllm:generation_tokens", "x", labels, registry=self.registry)
        usage = Gauge("vllm:kv_cache_usage_perc", "x", labels, registry=self.registry)
        self.tokens, self.usage = tokens.labels(MODEL, "0"), usage.labels(MODEL, "0")
        self.usage.set(0.5)


def latest(signals: PrometheusSignals, is_good: Callable[[Signals], bool]) -> Signals:
    """The first that are good, of whatever the thread fetches."""
    deadline = time.monotonic() + FOUND_WITHIN_S
    found = None
    while time.monotonic() < deadline:
        found = signals.latest(now_s=time.monotonic()).get(MODEL)
        if found is not None and is_good(found):
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {FOUND_WITHIN_S} s: {found}")


def test_real_metrics_become_signals_and_duplicates_count_once(tmp_path: Path) -> None:
    """Two jobs scrape every target, as two monitoring set-ups of one cluster would."""
    gateways, engines = [Gateway(), Gateway()], [Engine(), Engine()]
    with ExitStack() as stack:
        ports = [
            stack.enter_context(answering(partial(generate_latest, process.registry)))
            for process in (*gateways, *engines)
        ]
        port = free_port()
        stack.enter_context(running_prometheus(scraping_twice(tmp_path, ports), port=port))
        signals = PrometheusSignals(f"http://127.0.0.1:{port}", 3)
        found = latest(signals, lambda found: found.replicas_seen == 2)
        assert found.queued == 6.0
        assert found.gateways_missing == 1  # there are said to be three
        assert found.waiting_tokens == 600.0
        assert found.kv_used_ratio == 0.5
        assert found.active_classes == frozenset()
        assert found.problem() is None

        for gateway in gateways:
            gateway.serve(200)
            gateway.refuse(50)
        engines[0].tokens.inc(8000)
        found = latest(signals, lambda f: f.requests_per_s > 0 and f.output_tokens_per_s > 0)
        # 500 requests, of which 400 are served, and 8,000 tokens within the same time.
        assert found.output_tokens_per_s == pytest.approx(16 * found.requests_per_s, rel=0.2)
        assert found.prompt_tokens_per_s == pytest.approx(48 * found.requests_per_s, rel=0.01)
        assert found.demand_factor == pytest.approx(1.25, rel=0.01)
        assert found.late_ttft_ratio == pytest.approx(0.1, abs=0.001)
        assert found.long_itl_ratio == 0.0
        assert latest(signals, lambda f: f.active_classes == {"gold"}).problem() is None

        engines[0].usage.set(float("nan"))
        # A mean of which one is NaN is no figure; what is left can be.
        assert latest(signals, lambda f: f.kv_used_ratio == 0.0).problem() is None


def scraping_twice(folder: Path, ports: Sequence[int]) -> Path:
    """A configuration with two jobs for the same targets."""
    targets = [f"127.0.0.1:{port}" for port in ports]
    jobs = [
        {"job_name": name, "scrape_interval": "1s", "static_configs": [{"targets": targets}]}
        for name in ("galerne", "podmonitor")
    ]
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"scrape_configs": jobs}))
    return config


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"oh no"),
        (200, b"<html>"),
        (200, b'{"status": "error", "error": "parse error"}'),
        (200, b'{"status": "success", "data": {"resultType": "vector", "result": []}}'),
        (200, b'{"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}}'),
        (200, b'{"status": "success", "data": {"resultType": "matrix", "result": []}}'),
    ],
)
def test_a_prometheus_that_answers_nonsense_tells_nothing(status: int, body: bytes) -> None:
    with answering(lambda: body, status=status) as port:
        assert tells_nothing(PrometheusSignals(f"http://127.0.0.1:{port}", 1))


def test_an_unreachable_prometheus_tells_nothing() -> None:
    assert tells_nothing(PrometheusSignals(f"http://127.0.0.1:{free_port()}", 1))


def tells_nothing(signals: PrometheusSignals) -> bool:
    """Whether no signals come, when it has been asked."""
    signals.latest(now_s=0.0)
    deadline = time.monotonic() + FOUND_WITHIN_S
    while not signals._cache.timestamp and time.monotonic() < deadline:
        time.sleep(0.05)
    assert signals._cache.timestamp, "not asked yet"
    return signals.latest(now_s=0.0) == {}
