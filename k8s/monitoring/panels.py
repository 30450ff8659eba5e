"""How Galerne's panels look, over Grafana's builders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import common, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")
_TAG = "galerne"

Panel = timeseries.Panel | stat.Panel | table.Panel

Levels = tuple[float, float]
"""From the first on a value is a worry, from the second on it is bad."""


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression, and what its series are called in the legend."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, its value per row, and how that is shown."""

    title: str
    expression: str
    unit: str = "short"
    levels: Levels | None = None


def dashboard(
    name: str,
    sections: Mapping[str, Sequence[Panel]],
    *,
    about: str,
    variables: Sequence[QueryVariable] = (),
) -> Dashboard:
    """A dashboard of titled sections, with links to the others."""
    to_others = DashboardLink("Galerne").type(DashboardLinkType.DASHBOARDS).tags([_TAG])
    board = (
        Dashboard(f"Galerne: {name}")
        .uid(f"galerne-{name}")
        .description(about)
        .tags([_TAG])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(to_others.include_vars(True).keep_time(True))
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for each in variables:
        board = board.with_variable(each)
    for title, panels in sections.items():
        board = board.with_row(Row(title))
        for panel in panels:
            board = board.with_panel(panel)
    return board


def variable(name: str, values: str, *, several: bool = False) -> QueryVariable:
    """A choice among the values of a label; of several, or all, where expressions match by `=~`.

    `values` is Grafana's `label_values(metric, label)`.
    """
    choice = (
        QueryVariable(name)
        .label(name.capitalize())
        .datasource(PROMETHEUS)
        .query(values)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
    return choice.multi(True).include_all(True).all_value(".*") if several else choice


def graph(
    title: str,
    queries: Sequence[Query],
    *,
    about: str,
    unit: str = "short",
    width: int = 8,
    levels: Levels | None = None,
) -> timeseries.Panel:
    """Lines over time, with a line at each level. `width` is of 24."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .height(8)
        .span(width)
        .fill_opacity(5)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull"])
        )
    )
    if levels is not None:
        style = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
        panel = panel.thresholds(_thresholds(levels)).thresholds_style(style)
    for target in _targets(queries):
        panel = panel.with_target(target)
    return panel


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    """The same graph, its series on top of each other."""
    return panel.fill_opacity(40).stacking(common.StackingConfig().mode(StackingMode.NORMAL))


def figure(
    title: str,
    queries: Sequence[Query],
    *,
    about: str,
    unit: str = "short",
    width: int = 4,
    levels: Levels | None = None,
) -> stat.Panel:
    """The latest values in large type, coloured by level. `width` is of 24."""
    panel = (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(PROMETHEUS)
        .unit(unit)
        .height(4)
        .span(width)
        .no_value("none")
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(BigValueColorMode.BACKGROUND if levels else BigValueColorMode.NONE)
        .thresholds(_thresholds(levels))
    )
    for target in _targets(queries):
        panel = panel.with_target(target)
    return panel


def rows(
    title: str,
    columns: Sequence[Column],
    *,
    about: str,
    width: int = 12,
    links: Mapping[str, str] | None = None,
) -> table.Panel:
    """A table of the latest values, one row per set of labels. `width` is of 24.

    Args:
        links: where a click on a label's column leads, by label.
    """
    panel = table.Panel().title(title).description(about).datasource(PROMETHEUS)
    panel = panel.height(9).span(width).no_value("none").show_header(True)
    names: dict[str, str] = {}
    for letter, column in zip(ascii_uppercase, columns, strict=False):
        # The table names the values of several queries after the letters of the queries.
        names[f"Value #{letter}" if len(columns) > 1 else "Value"] = column.title
        query = Dataquery().expr(column.expression).instant().ref_id(letter)
        panel = panel.with_target(query.format(PromQueryFormat.TABLE).datasource(PROMETHEUS))
        panel = panel.override_by_name(column.title, _look(column))
    for label, url in (links or {}).items():
        link = {"title": "Look closer", "url": url}
        panel = panel.override_by_name(label, [DynamicConfigValue("links", [link])])
    shown: dict[str, Any] = {"excludeByName": {"Time": True}, "renameByName": names}
    return panel.with_transformation(
        DataTransformerConfig(id_val="merge", options={})
    ).with_transformation(DataTransformerConfig(id_val="organize", options=shown))


def _look(column: Column) -> list[DynamicConfigValue]:
    look = [DynamicConfigValue("unit", column.unit)]
    if column.levels:
        look += [
            DynamicConfigValue("thresholds", _thresholds(column.levels).build()),
            DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
        ]
    return look


def _targets(queries: Sequence[Query]) -> Iterator[Dataquery]:
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        yield (
            Dataquery()
            .ref_id(letter)
            .expr(query.expression)
            .legend_format(query.legend or "__auto")
            .range()
            .datasource(PROMETHEUS)
        )


def _thresholds(levels: Levels | None) -> ThresholdsConfig:
    steps = [Threshold(value=None, color="green")]
    steps += [
        Threshold(value=level, color=color)
        for level, color in zip(levels or (), ("orange", "red"), strict=False)
    ]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
