"""Processes that send for a load test."""

from __future__ import annotations

import asyncio
import hashlib
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
from loadtest.generator.run import Listen, NothingSentError, Plan, load
from loadtest.generator.target import Target
from loadtest.generator.worker import run_worker, work
from loadtest.processes import free_port
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
    timeout_s=1.0, tokenizer=None, traces={},
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


async def test_a_trace_of_which_a_worker_has_another_file_is_not_sent(tmp_path: Path) -> None:
    """At the same path on two machines."""
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 0, "prompt_tokens": 8, "output_tokens": 2}\n')
    workload = from_options(WorkloadOptions(model="m", trace=path, format="galerne"))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    share = msgspec.structs.replace(
        SHARE, workload=workload.model_dump(mode="json"), traces=workload.trace_digests()
    )
    path.write_text('{"at_s": 0, "prompt_tokens": 9, "output_tokens": 2}\n')
    there = hashlib.sha256(path.read_bytes()).hexdigest()
    async with joined(share) as (coordinator, link, mine):
        with pytest.raises(ServingError, match=f"{expected} there") as ended:
            await work(link, mine)

        assert ended.value.code == "trace_differs"
        assert f"{path} is not the file that the coordinator has" in ended.value.message
        assert f"SHA-256 {there} here" in ended.value.message
        with pytest.raises(WorkerLostError) as told:
            await coordinator.finished(0)
        assert coordinator.begun is None
    assert str(told.value) == f"worker 0 on {platform.node()}: {ended.value.message}"


async def test_every_share_names_the_traces_of_its_coordinator(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 0, "prompt_tokens": 8, "output_tokens": 1}\n')
    workload = from_options(WorkloadOptions(model="m", trace=path, format="galerne"))
    application = web.Application()
    application.router.add_get("/v1/models", models)
    application.router.add_post("/v1/chat/completions", answer)
    listen, interrupted = Listen("127.0.0.1", free_port(), "token"), asyncio.Event()

    async with TestServer(application) as server:
        plan = Plan(Target.parse(str(server.make_url("/"))), workload, listen=listen)
        running = asyncio.ensure_future(load(plan, lambda _: None, interrupted))
        async with linked(f"http://127.0.0.1:{listen.port}", "token") as link:
            share = await join(link.ask, Patience(limit_s=30))
        interrupted.set()
        with pytest.raises(NothingSentError):
            await running

    assert share.traces == {"load": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_an_address_of_a_coordinator_that_is_none_is_named() -> None:
    with pytest.raises(ServingError, match=r"coordinator .* cannot be reached: http://a\.\.b"):
        run_worker("http://a..b", "token")
