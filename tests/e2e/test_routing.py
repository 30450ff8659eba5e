"""Requests go where their prompt is cached, and nobody profits from what others have cached."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from e2e.harness import Platform, wait_until

MODEL = "sim"
NUM_ENGINES = 3
BLOCK_SIZE = 16
STORY = "The sea carries every ship that the wind has left behind on its way to the far shore. "


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    settings = (
        "gateway.replicas=2",
        "tenancy.cache_groups={team: [ann, bob]}",
        f"models.{MODEL}.replicas={NUM_ENGINES}",
        f"models.{MODEL}.routing.warm_up_s=0",
        f"models.{MODEL}.simulator.start_s=0",
        f"models.{MODEL}.simulator.timing.step_s=0.002",
        "models.quiet={replicas: 2, routing: {policy: prefix_approx, warm_up_s: 0}, "
        "simulator: {start_s: 0}, resources: {device: cpu, num_cpus: 0}}",
    )
    running = Platform.start(tmp_path_factory.mktemp("routing") / "state", "sim", settings)
    try:
        running.note_processes()
        yield running
    finally:
        running.stop()


def story() -> str:
    """A long prompt nobody has sent before."""
    return f"{uuid.uuid4().hex} {STORY * 20}"


def ask(client: httpx.Client, prompt: str, *, model: str = MODEL, **options: Any) -> dict[str, int]:
    """Prompt tokens of an answer, and how many of them were cached."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 2}
    answer = client.post("/v1/chat/completions", json={**body, **options})
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    details = usage["prompt_tokens_details"] or {}
    return {"prompt": usage["prompt_tokens"], "cached": details.get("cached_tokens") or 0}


def predicted(fleet: Platform, prompt: str, key: str, model: str = MODEL) -> dict[str, Any]:
    """What `galerne route` asks for."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    question = {"path": "/v1/chat/completions", "request": body, "tenant": key}
    with fleet.anonymous(headers={"x-galerne-token": fleet.internal_token}) as client:
        shown = client.post("/galerne/route", json=question)
    assert shown.status_code == 200, shown.text
    document: dict[str, Any] = shown.json()
    return document


def client_of(fleet: Platform, name: str) -> httpx.Client:
    return fleet.anonymous(headers={"authorization": f"Bearer {fleet.create_key(name)}"})


def test_a_prompt_goes_where_it_is_cached(fleet: Platform) -> None:
    """Each of these would find its replica by chance once in 3^8 runs."""
    with client_of(fleet, "reader") as client:
        wait_until(lambda: len(predicted(fleet, "x", "reader")["candidates"]) == NUM_ENGINES,
                   timeout_s=10)  # fmt: skip
        prompts = [story() for _ in range(8)]
        for prompt in prompts:
            assert ask(client, prompt)["cached"] == 0
        for prompt in prompts:
            shown = wait_until(lambda p=prompt: knows(fleet, p, "reader"), timeout_s=5)
            best = shown["candidates"][0]
            assert best["replica"] == shown["replica"]
            assert set(best["scores"]) >= {"ttft", "prefix_hit", "kv_headroom"}
            found = ask(client, prompt)
            assert shown["prompt_tokens"] == found["prompt"]
            assert best["predicted_hit_tokens"] == found["cached"]
            assert found["cached"] == (found["prompt"] - 1) // BLOCK_SIZE * BLOCK_SIZE


def knows(fleet: Platform, prompt: str, key: str, model: str = MODEL) -> dict[str, Any] | None:
    """Where the prompt would go, if both gateways know that it is cached there: HAProxy asks them
    in turn."""
    for _ in range(4):
        shown = predicted(fleet, prompt, key, model)
        if not shown["candidates"][0]["predicted_hit_tokens"]:
            return None
    return shown


def test_what_was_routed_is_known_where_engines_tell_nothing(fleet: Platform) -> None:
    """Each of these would find its replica by chance once in 2^6 runs. Parts have 128 tokens."""
    with client_of(fleet, "writer") as client:
        prompts = [story() for _ in range(6)]
        for prompt in prompts:
            assert ask(client, prompt, model="quiet")["cached"] == 0
        for prompt in prompts:
            shown = wait_until(lambda p=prompt: knows(fleet, p, "writer", "quiet"), timeout_s=5)
            found = ask(client, prompt, model="quiet")
            predicted_tokens = shown["candidates"][0]["predicted_hit_tokens"]
            assert predicted_tokens == (found["prompt"] - 1) // 128 * 128
            assert 0 <= found["cached"] - predicted_tokens < 128


def test_no_tenant_hits_what_another_has_cached(fleet: Platform) -> None:
    prompt = story()
    with client_of(fleet, "one") as one, client_of(fleet, "two") as two:
        ask(one, prompt)
        wait_until(lambda: knows(fleet, prompt, "one"), timeout_s=5)
        assert not knows(fleet, prompt, "two")
        assert ask(two, prompt)["cached"] == 0
        assert ask(two, prompt, cache_salt="one")["cached"] == 0
        assert ask(one, prompt)["cached"] > 0
        assert ask(one, prompt, cache_salt="own")["cached"] == 0
        # Gateways hear of it within 0.1 s.
        wait_until(lambda: ask(one, prompt, cache_salt="own")["cached"], timeout_s=5)


def test_a_group_shares(fleet: Platform) -> None:
    prompt = story()
    with client_of(fleet, "ann") as ann, client_of(fleet, "bob") as bob:
        assert ask(ann, prompt)["cached"] == 0
        wait_until(lambda: knows(fleet, prompt, "bob"), timeout_s=5)
        assert ask(bob, prompt)["cached"] > 0


def test_route_is_for_people_too(fleet: Platform) -> None:
    shown = fleet.run("route", "--model", MODEL, "--prompt", "Where does the river end?")
    assert shown.returncode == 0, shown.stderr
    assert all(word in shown.stdout for word in ("REPLICA", "SCORE", "HIT", "TTFT"))
    shown = fleet.run("route", "--model", MODEL, "--prompt", "x", "--key", "reader", "--json")
    document = json.loads(shown.stdout)
    assert document["replica"] == document["candidates"][0]["replica"]
    wrong = fleet.run("route", "--model", "simm", "--prompt", "x")
    assert wrong.returncode == 2
    assert "did you mean `sim`?" in wrong.stderr


@pytest.mark.parametrize("salt", [5, "", "x" * 2000])
def test_a_salt_that_is_none_is_refused(fleet: Platform, salt: Any) -> None:
    with fleet.client() as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "cache_salt": salt}
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "cache_salt"
