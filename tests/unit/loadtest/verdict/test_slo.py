"""SLO files: what they ask, and which ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.verdict.slo import RequestLimits, Slo, read_slo
from serving.errors import ConfigError

WHOLE = """
request: {ttft_ms: 2000, tpot_ms: 80, itl_ms: 500.5, latency_ms: 60000}
attainment_ratio: 0.95
percentiles:
  ttft_ms: {p50: 500, p99: 2000}
  itl_ms: {max: 1000}
failed_ratio: 0
goodput_rps: 12.5
output_tokens_per_s: 1000
traffic:
  batch:
    request: {latency_ms: 100000}
    failed_ratio:
"""


def read(tmp_path: Path, text: str) -> Slo:
    path = tmp_path / "slo.yaml"
    path.write_text(text)
    return read_slo(path)


def test_a_file_that_asks_everything(tmp_path: Path) -> None:
    slo = read(tmp_path, WHOLE)

    assert slo.request == RequestLimits(ttft_ms=2000, tpot_ms=80, itl_ms=500.5, latency_ms=60000)
    assert slo.percentiles is not None
    assert slo.percentiles.ttft_ms is not None
    assert list(slo.percentiles.ttft_ms.limits()) == [("p50", 500.0), ("p99", 2000.0)]
    assert (slo.attainment_ratio, slo.failed_ratio) == (0.95, 0.0)
    assert (slo.goodput_rps, slo.output_tokens_per_s) == (12.5, 1000.0)
    assert slo.traffic["batch"].failed_ratio is None


def test_a_part_has_its_own_limits_for_a_request(tmp_path: Path) -> None:
    slo = read(tmp_path, WHOLE)

    assert slo.request_limits("batch") == RequestLimits(latency_ms=100_000)
    assert slo.request_limits("chat") == slo.request


def test_unless_told_otherwise_one_in_a_hundred_may_fail_or_miss(tmp_path: Path) -> None:
    slo = read(tmp_path, "request: {ttft_ms: 1}")

    assert (slo.attainment_ratio, slo.failed_ratio) == (0.99, 0.01)


def test_what_a_file_says_comes_back_from_its_document(tmp_path: Path) -> None:
    slo = read(tmp_path, WHOLE)

    assert Slo.model_validate(slo.model_dump(exclude_unset=True)) == slo


@pytest.mark.parametrize(
    ("text", "param", "reason"),
    [
        ("{}", None, "no limit is set"),
        ("request: {}", "request", "no limit is set; known here: ttft_ms, tpot_ms"),
        ("percentiles: {ttft_ms: {}}", "percentiles.ttft_ms", "no limit is set; known here: p50"),
        ("failed_ratio:", None, "no limit is set"),
        ("traffic: {}", None, "no limit is set"),
        ("traffic: {chat: {}}", "traffic.chat", "no limit is set"),
        ("traffic: {chat: }", "traffic.chat", "mapping"),
        ("request: {ttft_ms: -1}", "request.ttft_ms", "-1 is not valid; it must be greater than 0"),
        ("request: {ttft_ms: 0}", "request.ttft_ms", "greater than 0"),
        ("request: {ttft_ms: yes}", "request.ttft_ms", "valid number"),
        ("request: {ttft_ms: .nan}", "request.ttft_ms", "finite"),
        ("request: {ttft_ms: .inf}", "request.ttft_ms", "finite"),
        ("failed_ratio: 1.5", "failed_ratio", "less than or equal to 1"),
        ("failed_ratio: -0.1", "failed_ratio", "greater than or equal to 0"),
        ("attainment_ratio: 0.9", None, "set limits there"),
        ("{request: {ttft_ms: 1}, attainment_ratio: 0}", "attainment_ratio", "greater than 0"),
        ("percentiles: {ttft_ms: {p98: 1}}", "percentiles.ttft_ms.p98", "no such setting"),
        ("percentiles: {ttft_ms: {p50: 3, p99: 2}}", "percentiles.ttft_ms", "leave out p50"),
        ("goodput: 3", "goodput", "no such setting"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, text: str, param: str | None, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)

    assert (caught.value.code, caught.value.param) == ("slo_invalid", param)
    assert reason in caught.value.message
    assert "slo.yaml" in caught.value.message


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "percentiles: {ttft_ms: {p99.9: 3}}")

    assert caught.value.hint == "did you mean percentiles.ttft_ms.p99?"
