"""Processes that send for a load test."""

from __future__ import annotations

import asyncio
import platform
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest.generator.coordinator import Coordinator, WorkerLostError
from loadtest.generator.link import Link, Patience, join, linked
from loadtest.generator.messages import Share
from loadtest.generator.run import Plan, load
from loadtest.generator.target import Target
from loadtest.generator.worker import run_worker, work
from loadtest.workload.options import WorkloadOptions, from_options
from serving.errors import ServingError

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


SHARE = Share(
    worker=0, num_workers=1, url="http://127.0.0.1:1", ca_file=None, rate_scale=1.0, salt=0,
    workload=from_options(
        WorkloadOptions(model="m", arrivals="constant:5", duration_s=1.0, prompt_tokens="8",
                        output_tokens="1")
    ).model_dump(mode="json"),
    timeout_s=1.0, tokenizer=None,
)  # fmt: skip


@asynccontextmanager
async def joined(share: Share) -> AsyncIterator[tuple[Coordinator, Link, Share]]:
    """A coordinator whose only worker has got this share."""
    coordinator = Coordinator([share], "token", lambda _: None)
    async with (
        TestServer(coordinator.application()) as server,
        linked(str(server.make_url("")).rstrip("/"), "token") as link,
    ):
        yield coordinator, link, await join(link.ask, Patience(limit_s=0))


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process may open none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_worker_without_file_descriptors_says_so() -> None:
    async with joined(SHARE) as (coordinator, link, share):
        with no_more_files(), pytest.raises(ServingError) as ended:
            await work(link, share)

        assert ended.value.code == "generator_out_of_sockets"
        with pytest.raises(WorkerLostError) as told:
            await coordinator.finished(0)
    assert str(told.value) == f"worker 0 on {platform.node()}: {ended.value.message}"
    assert "timerfd_create failed" in str(told.value)


async def test_a_trace_that_a_worker_does_not_have_is_named_on_both_sides() -> None:
    options = WorkloadOptions(model="m", trace=Path("/no/such/trace"), format="mooncake")
    workload = from_options(options).model_dump(mode="json")
    share = msgspec.structs.replace(SHARE, workload=workload)
    async with joined(share) as (coordinator, link, mine):
        with pytest.raises(ServingError, match="cannot read /no/such/trace"):
            await work(link, mine)

        with pytest.raises(WorkerLostError, match="cannot read /no/such/trace"):
            await coordinator.finished(0)


def test_an_address_of_a_coordinator_that_is_none_is_named() -> None:
    with pytest.raises(ServingError, match=r"coordinator .* cannot be reached: http://a\.\.b"):
        run_worker("http://a..b", "token")
