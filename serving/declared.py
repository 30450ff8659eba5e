"""The platform's applications as Serve's declarative configuration names them (`import_path`).

Serve calls these in a process of the cluster, whose environment tells where secrets and files are
(`StatePaths`). Numbers of replicas are in the configuration's `deployments`. Its `args` are made by
`serving/planner/serve_config.py`. Serve validates them by the parameters' annotations, which must
not be strings for that.
"""

import time

from pydantic import BaseModel, ConfigDict
from ray import serve

from serving.adapters.state_paths import StatePaths
from serving.app import build_gateways, build_model
from serving.settings.model import ModelSettings
from serving.settings.platform import Settings
from serving.settings.section import ModelName


class GatewayArgs(BaseModel):
    """`args` of the gateways' application."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings


class ModelArgs(BaseModel):
    """`args` of a model's application."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ModelName
    settings: ModelSettings


def gateways(args: GatewayArgs) -> serve.Application:
    """The application of the gateways."""
    return build_gateways(args.settings, StatePaths.from_environment(), created=int(time.time()))


def model(args: ModelArgs) -> serve.Application:
    """The application of one model."""
    return build_model(args.name, args.settings, StatePaths.from_environment(), number={})
