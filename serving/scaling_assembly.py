"""Building the autoscaler in Ray Serve's controller, and telling Serve to ask it."""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from prometheus_client import CollectorRegistry
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from serving.adapters.autoscaler import Autoscaler, Fleet, ModelPlan, Shared, share_autoscaler
from serving.adapters.autoscaler_metrics import AutoscalerMetrics
from serving.adapters.prometheus_signals import PrometheusSignals
from serving.adapters.replica_reports import told_signals
from serving.adapters.secrets_file import read_secret
from serving.adapters.settings_file import SettingsFile
from serving.adapters.state_paths import StatePaths
from serving.engine.listener import HttpListener
from serving.planner.serve_config import POLICY_DELAYS, policy
from serving.protocol.metrics_page import MetricsPage
from serving.scaling.policy import Bounds
from serving.scaling.signals import Capacity, Replicas, Signals
from serving.settings.model import ModelSettings
from serving.settings.platform import Settings

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

_USUAL_USE, _USUAL_SPREAD = 0.8, 0.5
"""Of a simulated replica that nobody has measured; the policy learns the rest."""

logger = logging.getLogger("ray.serve")


class ModelScaler:
    """Decides on one deployment for Ray Serve; whatever fails, the deployment keeps its replicas.

    An exception would end the controller's round for all deployments.

    Args:
        model: the model's name.
        settings_file: the settings in force; the plan is in there and may change at any time. The
            tokens lie beside it.
    """

    def __init__(self, model: str, settings_file: str) -> None:
        self._model = model
        self._file = SettingsFile(Path(settings_file))
        self._metrics_token_file = StatePaths.of(
            Path(settings_file).parent, Path(settings_file).parent
        ).metrics_token_file
        self._applied: Settings | None = None
        self._autoscaler: Autoscaler | None = None

    def decide(self, context: AutoscalingContext) -> int:
        """How many replicas the deployment shall have."""
        target = int(context.target_num_replicas)
        self._apply(self._file.latest())
        autoscaler = self._autoscaler
        if autoscaler is None:
            return target
        try:
            replicas = Replicas(target=target, ready=int(context.current_num_replicas))
            told = partial(_told, context, autoscaler.now_s)
            return autoscaler.decide(self._model, Fleet(replicas, told))
        except Exception:
            logger.exception("the scaling of %s failed; it keeps %d replicas", self._model, target)
            autoscaler.failed(self._model)
            return target

    def _apply(self, settings: Settings | None) -> None:
        """Scale by these settings from now on; the last plan stays if they have none."""
        if settings is None or settings is self._applied:
            return
        self._applied = settings
        try:
            model = settings.models.get(self._model)
            if model is None or model.scaling is None:
                return
            autoscaler = _autoscaler_of(settings, self._metrics_token_file)
            autoscaler.plan(self._model, plan_of(model))
            self._autoscaler = autoscaler
        except Exception:
            logger.exception("%s is not scaled: its autoscaler cannot be built", self._model)


def _told(context: AutoscalingContext, now_s: float) -> Signals | None:
    """What the deployment's replicas report through Ray Serve."""
    queued = context.total_queued_requests or 0.0
    return told_signals(context.raw_metrics or {}, at_s=now_s, queued=queued)


def _autoscaler_of(settings: Settings, metrics_token_file: Path) -> Autoscaler:
    """The process's autoscaler, by these settings from now on."""
    autoscaler = share_autoscaler(lambda: _build(settings, metrics_token_file))
    figures = autoscaler.figures
    if isinstance(figures, PrometheusSignals) and figures.source != _source(settings):
        autoscaler.figures = PrometheusSignals(*_source(settings))
    autoscaler.budget = settings.autoscaler.gpu_budget
    return autoscaler


def _source(settings: Settings) -> tuple[str | None, int]:
    return settings.autoscaler.prometheus_url, settings.gateway.replicas


def _build(settings: Settings, metrics_token_file: Path) -> Shared:
    registry = CollectorRegistry()
    page = MetricsPage(registry, token=read_secret(metrics_token_file))
    autoscaler = Autoscaler(
        PrometheusSignals(*_source(settings)),
        AutoscalerMetrics(registry),
        budget=settings.autoscaler.gpu_budget,
    )
    return Shared(autoscaler, metrics_url=_serve_beside(page, host=ray.util.get_node_ip_address()))


def _serve_beside(page: MetricsPage, *, host: str) -> str:
    """The address of the page, served by a thread: the controller's own loop has other work."""
    listener = HttpListener(page, host=host)

    async def serve() -> None:
        listener.start()
        await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(serve()), name="metrics", daemon=True).start()
    return listener.url


def autoscaling_options(
    name: str, model: ModelSettings, paths: StatePaths, *, is_first: bool
) -> dict[str, Any]:
    """How many replicas Serve gives the model's deployment, or who decides that.

    Args:
        is_first: the deployment is made, rather than changed: a running one keeps its replicas.
    """
    scaling = model.scaling
    if scaling is None:
        return {"num_replicas": model.replicas}
    first = min(max(model.replicas, scaling.min_replicas), scaling.max_replicas)
    config = AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        initial_replicas=first if is_first else None,
        policy=AutoscalingPolicy(**policy(name, settings_file=str(paths.settings_file))),
        **POLICY_DELAYS,
    )
    return {"autoscaling_config": config}


def plan_of(model: ModelSettings) -> ModelPlan:
    """The settings of a scaled model as the autoscaler takes them."""
    scaling = model.scaling
    assert scaling is not None
    bounds = Bounds(
        scaling.min_replicas,
        scaling.max_replicas,
        max_step=scaling.max_step,
        spares=scaling.spares,
        idle_s=scaling.idle_s,
        requests_per_replica=model.request_limit,
        sequences_per_replica=model.engine.max_num_seqs,
        floors=scaling.floors,
    )
    return ModelPlan(
        _capacity(model),
        bounds,
        cold_start_s=scaling.cold_start_s,
        quantile=scaling.quantile,
        gpus=model.num_gpus,
        allowed_bad_ratio=1.0 - model.slo.objective_ratio,
    )


def _capacity(model: ModelSettings) -> Capacity:
    if model.scaling is not None and (given := model.scaling.capacity) is not None:
        return Capacity(
            given.prompt_token_s, given.output_token_s, given.usable_ratio, given.spread
        )
    assert model.simulator is not None
    timing = model.simulator.timing
    return Capacity(
        1 / timing.prefill_tokens_per_s,
        timing.decode_s_per_sequence + timing.step_s / model.engine.max_num_seqs,
        _USUAL_USE,
        _USUAL_SPREAD,
    )
