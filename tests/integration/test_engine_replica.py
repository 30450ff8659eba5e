"""A whole replica around a simulated engine, as Serve would make it, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

TENANT, METRICS_TOKEN = "ann", "m"
NUM_GPUS = 4
WAIT_S = 7.0


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What the replica said of itself: see `main`."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def metrics(told: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """By name and the labels' values but the model's, in the order of their names."""
    families = text_string_to_metric_families(told["page"])
    samples = [sample for family in families for sample in family.samples]
    return {
        (name, *(labels[key] for key in sorted(labels) if key != "model")): value
        for name, labels, value, *_ in samples
    }


def test_the_autoscaler_gets_plain_floats(told: dict[str, Any]) -> None:
    """Serve turns the figures off for good if the first are not numbers."""
    assert told["types"] == ["float"]
    assert set(told["idle"].values()) == {0.0}
    assert told["served"] == {
        **told["idle"],
        "prompt_tokens_total": told["usage"]["prompt_tokens"],
        "output_tokens_total": told["usage"]["completion_tokens"],
    }


def test_the_figures_of_a_replica_that_drains(told: dict[str, Any]) -> None:
    draining = told["draining"]
    assert (draining["in_flight"], draining["draining"]) == (1.0, 1.0)
    assert draining["output_tokens_total"] > told["served"]["output_tokens_total"]
    assert 0 < draining["kv_used_ratio"] < 0.1


def test_its_start_and_its_seconds(metrics: dict[tuple[str, ...], float]) -> None:
    phases = {
        key[1]: value for key, value in metrics.items() if key[0] == "galerne_engine_start_seconds"
    }
    assert set(phases) == {"schedule", "weights", "load", "warm_up"}
    assert WAIT_S <= phases["schedule"] < WAIT_S + 60
    assert phases["load"] >= 0.01
    replica_s = metrics["galerne_engine_replica_seconds_total",]
    assert replica_s >= sum(phases.values())
    gpu_s = metrics["galerne_engine_gpu_seconds_total",]
    assert gpu_s == pytest.approx(NUM_GPUS * replica_s)


def test_its_tenants_tokens(told: dict[str, Any], metrics: dict[tuple[str, ...], float]) -> None:
    usage = told["usage"]
    assert {
        kind: metrics["galerne_engine_tenant_tokens_total", kind, TENANT]
        for kind in ("prompt", "cached", "output")
    } == {"prompt": usage["prompt_tokens"], "cached": 0, "output": usage["completion_tokens"]}
    assert metrics["galerne_engine_waiting_tokens",] == 0


# From here on: the program.


async def main() -> dict[str, Any]:
    """The figures before a request, after it and amid another one, when the replica was told to
    end; and the page after the first."""
    import time

    import aiohttp

    from serving.core.types import ModelId
    from serving.engine.deployment import EngineReplica, EngineSpec
    from serving.settings.model import ModelSettings
    from serving.simulator.launch import launch_simulator

    begun_at = time.time()
    model_id = ModelId("sim")
    model = ModelSettings.model_validate(
        {
            "simulator": {"start_s": 0.01, "timing": {"step_s": 0.02, "overhead_s": 0.0}},
            "resources": {"device": "gpu"},
            "engine": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2},
        }
    )
    spec = EngineSpec(
        model_id=model_id,
        model=model,
        launch=lambda secret, start: launch_simulator(model_id, model, None, secret, start),
        ordered_at=lambda: begun_at - WAIT_S,
        read_token=lambda: "t",
        read_metrics_token=lambda: METRICS_TOKEN,
        version="v",
    )
    replica = object.__new__(EngineReplica)
    await EngineReplica.__init__(replica, spec)
    told: dict[str, Any] = {"idle": await replica.record_autoscaling_stats()}
    found = replica.record_replica_metadata()
    url = found["url"] + "/v1/completions"
    asked: Any = {
        "headers": {"x-galerne-token": "t", "x-galerne-tenant": TENANT},
        "json": {"prompt": "Tell me of the sea.", "max_tokens": 20, "ignore_eos": True},
    }
    async with aiohttp.ClientSession() as session:
        async with session.post(url, **asked) as answer:
            told["usage"] = (await answer.json())["usage"]
        told["served"] = await replica.record_autoscaling_stats()
        bearer = {"authorization": f"Bearer {METRICS_TOKEN}"}
        async with session.get(found["metrics_url"] + "/metrics", headers=bearer) as page:
            told["page"] = await page.text()
        asked["json"]["stream"] = True
        async with session.post(url, **asked) as answer:
            await answer.content.readline()
            ending = asyncio.create_task(replica.__del__())
            await asyncio.sleep(0)
            told["draining"] = await replica.record_autoscaling_stats()
            assert (await answer.read()).strip().endswith(b"[DONE]")
        await ending
    told["types"] = sorted({type(value).__name__ for value in told["draining"].values()})
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
