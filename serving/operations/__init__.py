"""Operating the platform on Kubernetes: what its objects say, and what to do about it. Pure.

No I/O, and no Kubernetes client: snapshots in, documents, plans and findings out. Start with
`snapshot.py`; `readiness.py` says whether the platform is up, `findings.py` what is wrong with it,
`scale_plan.py`, `upgrade_plan.py` and `draining.py` what a command is to change; `leaving.py` which
machines are about to go.
"""
