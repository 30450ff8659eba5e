"""`galerne plan --picture`: a ranking of deployments as a PNG."""

from __future__ import annotations

from pathlib import Path

from serving.cli.new_file import check_new
from serving.cli.plan_report import Report
from serving.errors import ConfigError


def check_picture(picture: Path | None) -> None:
    """Return if a picture can be drawn there.

    Raises:
        ConfigError: the file's name does not end in .png (`picture_invalid`), or as `check_new`.
    """
    if picture is not None and picture.suffix.lower() != ".png":
        raise ConfigError(
            f"{picture} is no name of a PNG file",
            code="picture_invalid",
            param="--picture",
            hint="let it end in .png",
        )
    check_new(picture, option="--picture")


def draw_report(picture: Path, report: Report) -> None:
    """
    Raises:
        ConfigError: the file cannot be written (`not_written`).
    """
    from serving.lab.deployment import by_replicas
    from serving.lab.deployment_picture import draw

    best = next(iter(report.ranking.deployments), None)
    course = by_replicas(report.question, best) if best else ()
    try:
        draw(picture, report.question, report.ranking, course)
    except OSError as error:
        raise ConfigError(
            f"cannot write {picture}: {error.strerror}", code="not_written", param="--picture"
        ) from error
