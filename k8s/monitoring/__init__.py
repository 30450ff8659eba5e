"""Prometheus rules and Grafana dashboards.

`rules.yaml` is written by hand and tested by `rules*_test.yaml`. The dashboards are code, one
module each; `python -m k8s.monitoring.generate` writes their JSON and the chart's copies.
"""
