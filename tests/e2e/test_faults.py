"""What goes wrong with a fleet is named where people look, and costs clients at most a wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import pytest

from e2e.harness import GALERNE, Platform, free_port, galerne, is_refusal, wait_until

MODEL = "sim"
CHAT = "/v1/chat/completions"
NUM_ENGINES = 2
FAST = (f"models.{MODEL}.simulator.timing.step_s=0", f"models.{MODEL}.simulator.start_s=0")
STEP_S = 0.02
DISK_BYTES = 1 << 20
LOW_LIMIT = 1024


@pytest.fixture(scope="module")
def log_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A small file system for the log folder, or `None` where this user may not mount one."""
    folder = tmp_path_factory.mktemp("faults") / "state" / "logs"
    with small_disk(folder) as is_mounted:
        yield folder if is_mounted else None


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Whether a file system of `DISK_BYTES` is mounted at the folder, which only root may do."""
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "none", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        print("no small file system: mounting one takes root")
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def fleet(log_disk: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    state_dir = log_disk.parent if log_disk else tmp_path_factory.mktemp("faults-plain") / "state"
    settings = (
        f"models.{MODEL}.replicas={NUM_ENGINES}",
        f"models.{MODEL}.simulator.start_s=0",
        f"models.{MODEL}.simulator.timing.step_s={STEP_S}",
    )
    running = Platform.start(state_dir, "sim", settings)
    try:
        running.note_processes()
        yield running
    finally:
        running.stop()


def ask(client: httpx.Client, **options: Any) -> httpx.Response:
    message = {"role": "user", "content": "Tell me about the sea."}
    body = {"model": MODEL, "messages": [message], "max_tokens": 4, **options}
    return client.post(CHAT, json=body)


def replica_states(platform: Platform) -> list[str]:
    return sorted(replica["state"] for replica in platform.model_status(MODEL)["replicas"])


def problems(platform: Platform) -> list[str]:
    return [problem for gateway in platform.status()["gateways"] for problem in gateway["problems"]]


def serve_log(platform: Platform) -> str:
    logs = (platform.state_dir / "logs" / "ray" / "serve").glob("*.log")
    return "\n".join(path.read_text(errors="replace") for path in logs)


@contextmanager
def command(platform: Platform, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs meanwhile, and is stopped at the end if it still does."""
    environment = {**os.environ, "GALERNE_STATE_DIR": str(platform.state_dir)}
    running = subprocess.Popen(
        [GALERNE, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield running
    finally:
        running.kill()
        print(*arguments, running.communicate()[1], sep="\n")


# --- replicas that do not come up ----------------------------------------------------------------


@contextmanager
def starting(state_dir: Path, *settings: str) -> Iterator[Platform]:
    """A platform that is not ready, as its first client meets it."""
    endpoint_port = free_port()
    key = json.loads(galerne("keys", "create", "--name", "t", "--json", state_dir=state_dir).stdout)
    platform = Platform(f"http://127.0.0.1:{endpoint_port}", key["key"], state_dir)
    words = [word for setting in (*FAST, *settings) for word in ("--set", setting)]
    up = ["up", "--preset", "sim", "--port", str(endpoint_port), *words]
    with command(platform, *up) as process:
        try:
            wait_until(lambda: galerne("status", state_dir=state_dir).returncode == 0, timeout_s=60)
            yield platform
        finally:
            platform.note_processes()
            platform.stop()
            process.wait(timeout=30)


def test_a_first_replica_that_never_becomes_ready_is_shown_and_asked_for_in_vain(
    tmp_path: Path,
) -> None:
    settings = (f"models.{MODEL}.simulator.start_s=3600", "gateway.no_replica_wait_s=1")
    with starting(tmp_path / "state", *settings) as platform, platform.client() as client:
        wait_until(lambda: replica_states(platform) == ["STARTING"], timeout_s=90, period_s=0.5)
        wait_until(lambda: platform.model_status(MODEL)["replicas"][0]["started_at"], timeout_s=10)
        wait_until(lambda: answers(client), timeout_s=60, what="a gateway")
        answer = ask(client)
        assert is_refusal(answer), answer.text
        assert answer.json()["error"]["code"] == "model_not_ready"
        shown = platform.run("status").stdout
        assert [line.split()[2] for line in shown.splitlines() if " sim " in line] == ["STARTING"]


def answers(client: httpx.Client) -> bool:
    """Whether a gateway runs; until then clients are refused in ways that tell them to retry."""
    try:
        answer = client.get("/health")
    except httpx.ConnectError:
        return False
    assert answer.status_code == 200 or is_refusal(answer), answer.text
    return answer.status_code == 200


def test_a_first_replica_that_dies_is_named(tmp_path: Path) -> None:
    words = [word for setting in FAST for word in ("--set", setting)]
    up = ["up", "--preset", "sim", "--port", str(free_port()), *words]
    bad = ["--set", f"models.{MODEL}.simulator.kv_blocks=20", "--detach"]
    failed = galerne(*up, *bad, state_dir=tmp_path, timeout_s=150)
    assert failed.returncode == 2
    assert "KV blocks, and there are 20" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_new_replicas_that_never_become_ready_leave_the_old_ones_serving(fleet: Platform) -> None:
    never = f"models.{MODEL}.simulator.start_s=3600"
    with command(fleet, "apply", "--set", never), fleet.client() as client:
        wait_until(lambda: "STARTING" in replica_states(fleet), timeout_s=60, period_s=0.5)
        assert ask(client).status_code == 200
        assert replica_states(fleet).count("RUNNING") == NUM_ENGINES
        assert "STARTING" in fleet.run("status").stdout
    mended = fleet.run("apply", "--set", f"models.{MODEL}.simulator.start_s=0", timeout_s=120)
    assert mended.returncode == 0, mended.stderr


# --- a replica that stands still -----------------------------------------------------------------


def streamed(client: httpx.Client) -> tuple[int, str]:
    """Status and text of a stream of a second."""
    answer = ask(client, max_tokens=50, ignore_eos=True, stream=True)
    return answer.status_code, answer.text


async def test_a_replica_that_stands_still_is_named_avoided_and_replaced(fleet: Platform) -> None:
    """Stopped by a signal it keeps its connections and takes new ones, and does nothing."""
    before = fleet.engines(MODEL)
    victim = before[0]
    with fleet.client() as client, ThreadPoolExecutor(12) as pool:
        os.kill(victim["pid"], signal.SIGSTOP)
        begun = time.monotonic()
        at_once = [pool.submit(streamed, client) for _ in range(12)]
        wait_until(lambda: told_of_silence(fleet, victim["id"]), timeout_s=10)
        row = next(r for r in fleet.model_status(MODEL)["replicas"] if r["id"] == victim["id"])
        assert row["state"] == "UNREACHABLE"
        later = time.monotonic()
        assert {streamed(client)[0] for _ in range(4)} == {200}
        print(
            f"4 streams of 1 s while one of two replicas stands: {time.monotonic() - later:.1f} s"
        )
        outcomes = [future.result() for future in at_once]
        print(f"the first 12 were answered within {time.monotonic() - begun:.1f} s")
        assert [status for status, _ in outcomes] == [200] * 12
        assert all(text.rstrip().endswith("[DONE]") for _, text in outcomes)
        wait_until(lambda: is_whole_again(fleet, victim["pid"]), timeout_s=90, what="a new replica")
        print(f"replaced within {time.monotonic() - begun:.1f} s")
        fleet.note_processes()
        wait_until(lambda: not psutil.pid_exists(victim["pid"]), timeout_s=30, what="its end")
        print(f"ended within {time.monotonic() - begun:.1f} s")
        assert f"replica {victim['id']} tells its state no more: silence" in serve_log(fleet)
        assert f"replica {victim['id']} has answered nothing for 15 s" in serve_log(fleet)
        wait_until(lambda: not problems(fleet), timeout_s=10)


def told_of_silence(platform: Platform, replica: str) -> list[str]:
    named = f"replica {replica} has not told its state for "
    return [problem for problem in problems(platform) if problem.startswith(named)]


def is_whole_again(platform: Platform, lost_pid: int) -> bool:
    replicas = platform.model_status(MODEL)["replicas"]
    running = [replica for replica in replicas if replica["state"] == "RUNNING"]
    return len(running) == len(replicas) == NUM_ENGINES and lost_pid not in {
        replica["pid"] for replica in running
    }


# --- a proxy whose keeper dies -------------------------------------------------------------------


def test_the_endpoint_comes_back_when_haproxys_keeper_has_died(fleet: Platform) -> None:
    """Ray ends HAProxy with the process that watches over it; Serve must notice by itself."""
    fleet.note_processes()
    (keeper,) = (p for p in fleet.processes if is_named(p, "ray::HAProxyManager"))
    keeper.kill()
    begun = time.monotonic()
    keeper.wait(timeout=10)
    with fleet.client() as client:
        wait_until(lambda: answers(client), timeout_s=25, what="the endpoint")
        print(f"reachable again after {time.monotonic() - begun:.1f} s")
        assert ask(client).status_code == 200


def is_named(process: psutil.Process, title: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(word.startswith(title) for word in process.cmdline())
    return False


# --- a full disk ---------------------------------------------------------------------------------


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def test_a_full_log_disk_costs_lines_and_is_told(fleet: Platform, log_disk: Path | None) -> None:
    if log_disk is None:
        pytest.skip("only root can mount a small file system for the logs")
    with fleet.client() as client:
        assert ask(client).status_code == 200
        ballast = fill(log_disk)
        assert {ask(client).status_code for _ in range(40)} == {200}
        (problem,) = wait_until(lambda: problems(fleet), timeout_s=10)
        assert problem.startswith("access log: No space left on device, ")
        assert "access log: No space left on device" in fleet.run("status").stdout
        num_lost = int(problem.split(", ")[1].split()[0])
        ballast.unlink()
        assert ask(client).status_code == 200
        wait_until(lambda: not problems(fleet), timeout_s=10)
    rows = list(fleet.access_log())
    (gap,) = (row for row in rows if row["event"] == "lines_lost")
    assert gap["count"] >= num_lost > 0
    assert [row for row in rows if row.get("path") == CHAT], "lines before and after the gap"
    assert serve_log(fleet).count("the access log loses lines: No space left on device") == 1
    assert serve_log(fleet).count("the access log goes on after") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "create", "--name", "t"),
        ("up", "--preset", "sim", "--port", "{port}"),
        ("up", "--preset", "sim", "--port", "{port}", "--detach"),
    ],
    ids=lambda words: f"{words[0]}{words[-1].removeprefix('{port}')}",
)
def test_a_full_state_disk_is_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    with small_disk(tmp_path / "disk") as is_mounted:
        if not is_mounted:
            pytest.skip("only root can mount a small file system for the state")
        fill(tmp_path / "disk")
        arguments = [word.format(port=free_port()) for word in words]
        failed = galerne(*arguments, state_dir=tmp_path / "disk" / "state")
    assert failed.returncode == 2, failed.stderr
    assert "Traceback" not in failed.stderr
    assert failed.stderr.count("error") == 1
    assert "No space left on device" in failed.stderr
    assert str(tmp_path / "disk") in failed.stderr


# --- file descriptors ----------------------------------------------------------------------------


@contextmanager
def descriptors(pid: int, *, num_free: int) -> Iterator[None]:
    """A process may open that many more descriptors, no matter how many it has."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    in_use = [int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(in_use) + 1 + num_free, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def crowd(fleet: Platform, count: int, *, num_tokens: int = 100) -> Counter[str]:
    """How so many streams at once end: `whole`, `refused`, or what else happened."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    message = {"role": "user", "content": "Tell me about the sea."}
    body = {"model": MODEL, "messages": [message], "max_tokens": num_tokens, "ignore_eos": True}

    async def one(session: aiohttp.ClientSession) -> str:
        try:
            async with session.post(CHAT, json={**body, "stream": True}) as answer:
                text = await answer.text()
        except aiohttp.ClientError as error:
            return repr(error)
        if answer.status == 200:
            return "whole" if text.rstrip().endswith("[DONE]") else text[-200:]
        may_retry = answer.status in (429, 503) and "retry-after" in answer.headers
        return "refused" if may_retry else f"{answer.status} {text}"

    async with aiohttp.ClientSession(
        fleet.endpoint, headers=fleet.authorization, connector=connector
    ) as session:
        return Counter(await asyncio.gather(*(one(session) for _ in range(count))))


@pytest.mark.parametrize(("num_free", "num_clients"), [(0, 100), (200, 500)])
async def test_a_gateway_short_of_descriptors_refuses_and_recovers(
    fleet: Platform, num_free: int, num_clients: int
) -> None:
    (gateway,) = fleet.status()["gateways"]
    with descriptors(gateway["pid"], num_free=num_free):
        outcomes = await crowd(fleet, num_clients)
        (gateway,) = fleet.status()["gateways"]
        shown = fleet.run("status").stdout
    print(num_free, outcomes, gateway)
    assert outcomes["refused"] > 0
    assert set(outcomes) <= {"whole", "refused"}
    assert [p for p in gateway["problems"] if "file descriptors" in p], gateway
    assert "file descriptors" in shown
    assert await crowd(fleet, 100) == {"whole": 100}
    assert serve_log(fleet).count("file descriptors are short") == 1


async def test_a_low_hard_limit_is_told_and_bounds_what_is_taken_in(tmp_path: Path) -> None:
    # Slow streams of few tokens: it is connections that are short here, and tokens cost time.
    settings = [*FAST, f"models.{MODEL}.simulator.timing.step_s=0.1"]
    platform = Platform.start(tmp_path / "state", "sim", settings, max_files=LOW_LIMIT)
    try:
        said = (tmp_path / "state" / "logs" / "up.log").read_text()
        assert f"a process may open {LOW_LIMIT} files here" in said
        outcomes = await crowd(platform, LOW_LIMIT, num_tokens=10)
        print(outcomes)
        assert set(outcomes) <= {"whole", "refused"}
        assert outcomes["whole"] > LOW_LIMIT // 4
    finally:
        platform.stop()
