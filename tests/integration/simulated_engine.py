"""A simulated engine in a process of its own, as `galerne sim serve` starts it."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from loadtest.processes import free_port


@contextmanager
def simulated_engine(settings: Mapping[str, object]) -> Iterator[str]:
    """Its URL; `settings` by their paths below the model."""
    options = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "serving", "sim", "serve", "--port", str(port), *options],
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_up(url)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_up(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except urllib.error.URLError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return
