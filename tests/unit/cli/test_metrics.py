"""The printed scrape configuration."""

from __future__ import annotations

from serving.cli.metrics import scrape_config


def test_the_token_is_referred_to_and_never_printed() -> None:
    (job,) = scrape_config("http://127.0.0.1:8000", token_file="/s/metrics-token")["scrape_configs"]
    (discovery,) = job["http_sd_configs"]
    assert discovery["url"] == "http://127.0.0.1:8000/galerne/metric-targets"
    for part in (job, discovery):
        assert part["authorization"] == {
            "type": "Bearer",
            "credentials_file": "/s/metrics-token",
        }
