"""The page of all metrics."""

from __future__ import annotations

from pathlib import Path

from serving.metrics_catalog import catalog, to_markdown

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_in_docs_is_what_the_code_says() -> None:
    """Else: `galerne metrics list --markdown > docs/metrics.md`."""
    assert PAGE.read_text() == to_markdown(catalog())


def test_every_metric_says_what_it_means_and_none_is_there_twice() -> None:
    metrics = catalog()
    assert all(metric.meaning for metric in metrics)
    names = [metric.name for metric in metrics]
    assert len(set(names)) == len(names)


def test_labels_are_bounded() -> None:
    """Nothing that a client chooses, no id of a request or key."""
    labels = {label for metric in catalog() for label in metric.labels}
    assert labels.isdisjoint({"request_id", "key", "key_id", "path", "url"})
