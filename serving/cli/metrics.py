"""`galerne metrics`: what there is to measure, and what a Prometheus server needs to know."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
import yaml

from serving.adapters import control_client
from serving.adapters.secrets_file import ensure_secret
from serving.adapters.state_paths import StatePaths
from serving.cli.console import print_json
from serving.core.wire import METRIC_TARGETS_PATH

app = typer.Typer(help="Metrics, and Prometheus.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Metrics, and Prometheus."""


@app.command()
def config(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
) -> None:
    """Print a scrape configuration for the running platform.

    Prometheus asks the endpoint every 10 seconds what there is to scrape, and scrapes it every 5
    seconds, since scaling goes by what it finds. It presents the metrics token, which opens metrics
    and nothing else.

    **Examples**

    `galerne metrics config > prometheus.yml && prometheus --config.file=prometheus.yml`
    """
    paths = StatePaths.from_environment()
    record = control_client.running(paths)
    ensure_secret(paths.metrics_token_file)
    document = scrape_config(record.endpoint, token_file=str(paths.metrics_token_file))
    if as_json:
        print_json(document)
    else:
        typer.echo(yaml.safe_dump(document, sort_keys=False), nl=False)


@app.command("list")
def list_metrics(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/metrics.md.")] = False,
) -> None:
    """Print every metric that the platform shows, and what it means.

    **Examples**

    `galerne metrics list | grep tenant`

    `galerne metrics list --json`
    """
    # Reads them off all parts of the platform, whose libraries take a second to import.
    from serving.metrics_catalog import catalog, to_markdown

    metrics = catalog()
    if as_json:
        print_json([asdict(metric) for metric in metrics])
    elif as_markdown:
        typer.echo(to_markdown(metrics), nl=False)
    else:
        for metric in metrics:
            typer.echo(f"{metric.name} [{', '.join(metric.labels)}]: {metric.meaning}")


def scrape_config(endpoint: str, *, token_file: str) -> dict[str, Any]:
    """A Prometheus configuration with one job that finds the whole fleet.

    Source: Prometheus 2.42 configuration reference, `scrape_config` and `http_sd_config`.
    """

    def authorization() -> dict[str, str]:
        # Not left to its default: in a service discovery Prometheus 2.42 then sends none.
        return {"type": "Bearer", "credentials_file": token_file}

    return {
        "scrape_configs": [
            {
                "job_name": "galerne",
                "scrape_interval": "5s",
                "authorization": authorization(),
                "http_sd_configs": [
                    {
                        "url": endpoint + METRIC_TARGETS_PATH,
                        "refresh_interval": "10s",
                        "authorization": authorization(),
                    }
                ],
            }
        ]
    }
