"""A headless Chromium, and what it makes of a page."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

_ENDPOINT = re.compile(rb"DevTools listening on (ws://\S+)")
_INSTALL_S = 540


@dataclass(frozen=True, slots=True)
class View:
    """A page at one width. `asked` are the addresses that it made the browser look for, and
    `complaints` what the browser wrote into its console."""

    text: str
    content_width: int
    screenshot: bytes
    asked: tuple[str, ...]
    complaints: tuple[str, ...]


def find_chromium() -> str:
    """Path of the program, installed from Debian's packages where root may do that.

    Skips the test, with the reason, where it cannot be had.
    """
    if not shutil.which("chromium"):
        _install()
    return shutil.which("chromium") or pytest.skip("Chromium was installed but is not found")


def _install() -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("there is no Chromium, and only root can install Debian's package chromium")
    install = ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]
    # A fresh machine has no package lists.
    for command in (["apt-get", "update"], install):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_INSTALL_S, check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
    if done.returncode:
        pytest.skip(f"Chromium cannot be installed: {done.stderr.strip()[-300:]}")


@dataclass(slots=True)
class Browser:
    """A running browser, asked by its DevTools protocol."""

    _socket: aiohttp.ClientWebSocketResponse
    _events: list[dict[str, Any]] = field(default_factory=list)
    _num_calls: int = 0

    async def view(self, page: Path, *, width: int, height: int = 1000) -> View:
        """Open a file in a new tab of this size, in CSS pixels, and look at it."""
        target = await self._call("Target.createTarget", url="about:blank")
        attached = await self._call("Target.attachToTarget", flatten=True, **target)
        tab = attached["sessionId"]
        self._events.clear()
        for domain in ("Page", "Network", "Log"):
            await self._call(f"{domain}.enable", tab)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self._call("Emulation.setDeviceMetricsOverride", tab, **size)
        await self._call("Page.navigate", tab, url=page.as_uri())
        await self._event("Page.loadEventFired")
        return View(
            text=await self._value(tab, "document.body.innerText"),
            content_width=await self._value(tab, "document.documentElement.scrollWidth"),
            screenshot=await self._screenshot(tab),
            asked=tuple(
                event["request"]["url"] for event in self._heard("Network.requestWillBeSent")
            ),
            complaints=tuple(event["entry"]["text"] for event in self._heard("Log.entryAdded")),
        )

    async def _value(self, tab: str, expression: str) -> Any:
        answer = await self._call("Runtime.evaluate", tab, expression=expression)
        return answer["result"]["value"]

    async def _screenshot(self, tab: str) -> bytes:
        answer = await self._call("Page.captureScreenshot", tab, captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    async def _call(self, method: str, tab: str | None = None, **params: Any) -> dict[str, Any]:
        self._num_calls += 1
        call = {"id": self._num_calls, "method": method, "params": params}
        await self._socket.send_json(call if tab is None else call | {"sessionId": tab})
        while (answer := await self._socket.receive_json()).get("id") != self._num_calls:
            self._events.append(answer)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    async def _event(self, method: str) -> None:
        while not self._heard(method):
            self._events.append(await self._socket.receive_json())

    def _heard(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self._events if event.get("method") == method]


@asynccontextmanager
async def running_chromium(folder: Path) -> AsyncIterator[Browser]:
    """A browser whose profile is in `folder`; ended afterwards."""
    process = await asyncio.create_subprocess_exec(
        find_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={folder}",
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(await _endpoint(process), max_msg_size=0) as socket,
        ):
            browser = Browser(socket)
            yield browser
            await browser._call("Browser.close")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def _endpoint(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async for line in process.stderr:
        if found := _ENDPOINT.match(line):
            return found[1].decode()
    raise AssertionError("Chromium ended before it listened")
