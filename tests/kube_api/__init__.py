"""A Kubernetes API server for tests: HTTP in front of objects in memory.

It keeps what clients rely on (versions, conflicts, field managers, watches that expire, `Status`
bodies) and runs nothing: no scheduler, no kubelet, no operator. What it does not do it refuses, so
that no test passes on a guess. `tests/integration/kube_contract` runs the same tests on it
and, where `GALERNE_TEST_KUBECONFIG` names one, on a real server. Start with `server.py`.
"""
