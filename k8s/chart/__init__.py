"""The Helm chart's values as a model, and what is made of it: the chart's schema, plain manifests.

`values.py` says which values there are, `python -m k8s.chart.generate` writes `values.schema.json`.
Forbidden here: knowledge of templates.
"""
