"""Processes that send for a load test."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest.generator.run import Plan, load
from loadtest.generator.target import Target
from loadtest.workload.options import WorkloadOptions, from_options

CHECKOUT = Path(__file__).parents[2]


async def models(_request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "m"}]})


async def answer(_request: web.Request) -> web.Response:
    return web.json_response({"choices": [{"message": {"content": "abc"}}]})


async def test_files_in_the_working_directory_are_no_modules_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported')")
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.chdir(tmp_path)
    application = web.Application()
    application.router.add_get("/v1/models", models)
    application.router.add_post("/v1/chat/completions", answer)
    workload = from_options(
        WorkloadOptions(
            model="m", arrivals="constant:5", duration_s=1.0, prompt_tokens="8",
            output_tokens="1", stream=False,
        )
    )  # fmt: skip

    async with TestServer(application) as server:
        plan = Plan(Target.parse(str(server.make_url("/"))), workload)
        result = await asyncio.wait_for(load(plan, lambda moment: None, asyncio.Event()), 60)

    assert result.about.is_whole
    assert result.records["error"].null_count() == len(result.records) > 0
