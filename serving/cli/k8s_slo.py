"""Watching the SLO after an upgrade."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from serving.adapters.kube.resources import CONFIG_MAPS
from serving.adapters.prometheus_query import query_vector
from serving.cli.k8s_options import Place
from serving.errors import ClusterError
from serving.operations.readiness import Phase, assess
from serving.operations.slo_watch import Events, all_events, bad_events, broken_slo
from serving.operations.snapshot import settings_name
from serving.settings.platform import Settings

_PERIOD_S = 10.0
_SHORTEST_WINDOW_S = 30.0
"""Holds several scrapes, without which there is no increase."""


@dataclass(frozen=True, slots=True)
class SloWatch:
    """A Prometheus that scrapes the platform, and for how many seconds it is asked."""

    prometheus: str
    seconds: float

    def check(self) -> None:
        """Return if Prometheus answers.

        Raises:
            ClusterError: it does not.
        """
        self._ask(all_events(_SHORTEST_WINDOW_S))

    def failure(self, place: Place, tell: Callable[[str], None]) -> str | None:
        """Why the version that has come up is no good; nothing if it stays up and keeps its SLO.

        Raises:
            ClusterError: nobody can say: Prometheus does not answer at the end.
        """
        objectives = _objectives(place)
        asked_at_s = 0.0
        for waited_s, snapshot in place.follow():
            readiness = assess(snapshot)
            if readiness.phase in (Phase.FAILED, Phase.ABSENT):
                return readiness.reason
            is_over = waited_s >= self.seconds
            if is_over or waited_s - asked_at_s >= _PERIOD_S:
                asked_at_s = waited_s
                try:
                    broken = self._broken(max(waited_s, _SHORTEST_WINDOW_S), objectives)
                except ClusterError:
                    if is_over:
                        raise
                    broken = None
                if broken or is_over:
                    return broken
            tell(f"watching the SLO for {self.seconds - waited_s:.0f} s more")
        raise AssertionError("an upgrade is watched until it ends")

    def _broken(self, window_s: float, objectives: Mapping[str, float]) -> str | None:
        return broken_slo(
            self._ask(bad_events(window_s)), self._ask(all_events(window_s)), objectives
        )

    def _ask(self, expression: str) -> Events:
        found = query_vector(self.prometheus, expression, ("model", "slo"))
        return {(model, slo): value for (model, slo), value in found.items()}


def _objectives(place: Place) -> dict[str, float]:
    """What is promised of each model, by the settings in force."""
    found = place.client.get(CONFIG_MAPS, settings_name(place.name), namespace=place.namespace)
    settings = Settings.model_validate(json.loads(found["data"]["settings.json"]))
    return {name: model.slo.objective_ratio for name, model in settings.models.items()}
