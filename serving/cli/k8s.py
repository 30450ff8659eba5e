"""`galerne k8s`: the platform on Kubernetes."""

from __future__ import annotations

import typer

from serving.cli import (
    k8s_apply,
    k8s_doctor,
    k8s_drain,
    k8s_keys,
    k8s_scale,
    k8s_status,
    k8s_upgrade,
)
from serving.cli.k8s_options import EXIT_STATUS

app = typer.Typer(
    help=f"Operate a platform on Kubernetes (KubeRay). {EXIT_STATUS}", no_args_is_help=True
)
app.command(epilog=f"Example: `galerne k8s status --watch` · {EXIT_STATUS}")(k8s_status.status)
app.command(epilog=f"Example: `galerne k8s wait --timeout 900` · {EXIT_STATUS}")(k8s_status.wait)
app.command(epilog=f"Example: `galerne k8s apply --diff --dry-run deploy/` · {EXIT_STATUS}")(
    k8s_apply.apply
)
app.command(epilog=f"Example: `galerne k8s scale mistral-7b --min 2 --max 6` · {EXIT_STATUS}")(
    k8s_scale.scale
)
app.command(epilog=f"Example: `galerne k8s doctor --json` · {EXIT_STATUS}")(k8s_doctor.doctor)
app.command(epilog=f"Example: `galerne k8s drain gpu-node-3` · {EXIT_STATUS}")(k8s_drain.drain)
app.command(
    epilog="Example: `galerne k8s upgrade deploy/ --golden prompts.yaml "
    f"--endpoint https://models.example` · {EXIT_STATUS}"
)(k8s_upgrade.upgrade)
app.command(epilog=f"Example: `galerne k8s rollback` · {EXIT_STATUS}")(k8s_upgrade.rollback)
app.add_typer(k8s_keys.app, name="keys")
