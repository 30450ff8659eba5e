"""Virtual environments of the peers, one each, kept between runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.peers.base import UnavailableError
from serving.adapters.state_paths import StatePaths

_TIMEOUT_S = 1800
_PIP_INSTALL = ("-m", "pip", "install", "--disable-pip-version-check", "--quiet")


def peer_folder(name: str) -> Path:
    """The peer's environment, in the folder that `GALERNE_CACHE_DIR` names, else XDG's."""
    return StatePaths.from_environment().cache_dir / "peers" / name


def program(name: str, command: str) -> Path:
    """A console script of the peer's environment."""
    return peer_folder(name) / "bin" / command


def ensure_environment(name: str, requirement: str, *others: str) -> str:
    """The peer is installed in exactly this version, which is returned.

    An environment that holds another version, or that was not finished, is completed.

    Args:
        requirement: `distribution==version`, with or without extras.
        others: further ones that it needs here.

    Raises:
        UnavailableError: pip failed; its last error is in the message.
    """
    python = peer_folder(name) / "bin" / "python"
    with _completing(name, " ".join((requirement, *others))) as missing:
        if missing and not python.exists():
            _run(name, [sys.executable, "-m", "venv", str(peer_folder(name))])
        if missing:
            _run(name, [str(python), *_PIP_INSTALL, requirement, *others])
    return requirement.partition("==")[2]


def ensure_packages(name: str, requirement: str) -> Path:
    """A folder with one package, without what it depends on, to add to the project's own path.

    Raises:
        UnavailableError: pip failed; its last error is in the message.
    """
    folder = peer_folder(name) / "packages"
    with _completing(name, requirement) as missing:
        if missing:
            words = [*_PIP_INSTALL, "--no-deps", "--upgrade", "--target", str(folder), requirement]
            _run(name, [sys.executable, *words])
    return folder


@contextmanager
def _completing(name: str, requirement: str) -> Iterator[bool]:
    """Whether something is missing; unless installing it fails, it is noted as complete."""
    done = peer_folder(name) / ".complete"
    if done.is_file() and done.read_text() == requirement:
        yield False
        return
    print(f"{name}: installing {requirement} into {done.parent}", file=sys.stderr, flush=True)
    done.unlink(missing_ok=True)
    yield True
    done.write_text(requirement)


def _run(name: str, command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{name}: installing took over {_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"{name}: {_reason(error.stderr)}") from error


def _reason(output: str) -> str:
    """pip's own last word, short enough for a table."""
    lines = [line for line in output.splitlines() if line.startswith("ERROR")] or [output.strip()]
    return lines[-1][:200] or "pip failed without a message"
