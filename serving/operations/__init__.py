"""Decisions of `galerne k8s`, over objects as the Kubernetes API gives them. Pure.

No I/O, and no Kubernetes client: snapshots in, documents, plans and findings out. Start with
`snapshot.py`; `readiness.py` says whether the platform is up, `findings.py` what is wrong with it,
`scale_plan.py`, `upgrade_plan.py` and `draining.py` what a command is to change.
"""
