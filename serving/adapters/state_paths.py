"""Folders of this machine: state (keys, tokens, logs) and cache (prepared models)."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StatePaths:
    """Where one installation keeps its files. Everything in `state_dir` is private to its owner.

    Source: XDG Base Directory Specification 0.8 for the defaults.
    """

    state_dir: Path
    cache_dir: Path
    log_dir: Path

    @classmethod
    def of(cls, state_dir: Path, cache_dir: Path) -> StatePaths:
        """With the logs in the state folder."""
        return cls(state_dir, cache_dir, state_dir / "logs")

    @classmethod
    def from_environment(cls) -> StatePaths:
        """`GALERNE_STATE_DIR`, `GALERNE_CACHE_DIR` and `GALERNE_LOG_DIR`, else the XDG base
        directories and the state folder's `logs`."""
        home = Path.home()
        state = os.environ.get("GALERNE_STATE_DIR") or Path(
            os.environ.get("XDG_STATE_HOME") or home / ".local" / "state", "galerne"
        )
        cache = os.environ.get("GALERNE_CACHE_DIR") or Path(
            os.environ.get("XDG_CACHE_HOME") or home / ".cache", "galerne"
        )
        paths = cls.of(Path(state).expanduser().absolute(), Path(cache).expanduser().absolute())
        if logs := os.environ.get("GALERNE_LOG_DIR"):
            return replace(paths, log_dir=Path(logs).expanduser().absolute())
        return paths

    @property
    def key_file(self) -> Path:
        return self.state_dir / "keys.json"

    @property
    def internal_token_file(self) -> Path:
        return self.state_dir / "internal-token"

    @property
    def metrics_token_file(self) -> Path:
        """What Prometheus presents; opens metrics and nothing else."""
        return self.state_dir / "metrics-token"

    @property
    def ray_token_file(self) -> Path:
        return self.state_dir / "ray-token"

    @property
    def run_file(self) -> Path:
        """What the running platform tells the other commands; absent when it is down."""
        return self.state_dir / "run.json"

    @property
    def settings_file(self) -> Path:
        """The settings in force, as JSON; Serve's controller reads its scaling plans here."""
        return self.state_dir / "settings.json"

    @property
    def model_dir(self) -> Path:
        return self.cache_dir / "models"
