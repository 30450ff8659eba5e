"""Rules, alerts and the runbook hold together; promtool runs their tests."""

from __future__ import annotations

import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring_queries import MONITORING, alerts
from prometheus_tools import find_tool

RULE_TESTS = ("rules_test.yaml", "rules_slow_test.yaml")
RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"


def promtool(*arguments: str) -> str:
    """What promtool prints; it must succeed."""
    done = subprocess.run(
        [find_tool("promtool"), *arguments],
        cwd=MONITORING, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def checks_of(alert: str) -> list[list[dict[str, Any]]]:
    """For each series in which an alert is looked at, the looks in the order of time."""
    found = [
        [check for check in group.get("alert_rule_test", ()) if check["alertname"] == alert]
        for name in RULE_TESTS
        for group in yaml.safe_load((MONITORING / name).read_text())["tests"]
    ]
    return [sorted(checks, key=lambda each: seconds(each["eval_time"])) for checks in found]


def seconds(duration: str) -> int:
    """Of a duration such as `1h30m`."""
    factors = {"h": 3600, "m": 60, "s": 1}
    return sum(int(n) * factors[unit] for n, unit in re.findall(r"(\d+)([hms])", duration))


def sections() -> dict[str, str]:
    """The runbook's text by heading."""
    parts = re.split(r"^## (.+)\n", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def test_promtool_finds_no_fault_in_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")


@pytest.mark.parametrize("name", RULE_TESTS)
def test_alerts_fire_and_clear_when_they_should(name: str) -> None:
    promtool("test", "rules", name)


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_is_tested_to_fire_and_then_to_clear(alert: str) -> None:
    assert any(
        before["exp_alerts"] and not after["exp_alerts"]
        for checks in checks_of(alert)
        for before, after in pairwise(checks)
    )


@pytest.mark.parametrize(("alert", "rule"), alerts().items(), ids=alerts())
def test_each_alert_tells_whom_it_is_for_and_leads_to_its_runbook(
    alert: str, rule: dict[str, Any]
) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    assert sections()[alert]


def test_the_runbook_speaks_of_no_other_alerts() -> None:
    assert set(sections()) == set(alerts())
