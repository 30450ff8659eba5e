"""Errors of requests that nobody has answered."""

from __future__ import annotations

from serving.adapters.kube.failures import Attempt
from serving.errors import ClusterError, TimedOut

_HINTS_OF_TRUST = (
    ("alert", "the server, or a proxy before it, refuses the client certificate of the kubeconfig: "
     "has it expired?"),
    ("WRONG_VERSION_NUMBER", "the server speaks plain HTTP: is its address http://, or the port "
     "that of something else?"),
    ("not valid for", "use a name that the certificate has, or set tls-server-name in the "
     "kubeconfig"),
    ("expired", "the server's certificate is to be renewed; or is this machine's clock wrong?"),
    ("not yet valid", "is this machine's clock wrong?"),
    ("certificate verify failed", "is certificate-authority-data of the kubeconfig that of this "
     "server's certificate authority, or a proxy in between whose own must be known?"),
)  # fmt: skip
"""What OpenSSL says, and what to do; the first that fits."""


def unreachable(reason: str, server: str, *, is_of_trust: bool = False) -> ClusterError:
    """No answer, and the connection says why; `is_of_trust`: TLS does."""
    return ClusterError(
        f"the Kubernetes API at {server} cannot be reached: {reason}",
        code="kube_unreachable",
        hint=_hint_of_trust(reason)
        if is_of_trust
        else "is the cluster up, the VPN on, the context right? See --context",
        retryable=not is_of_trust,
    )


def _hint_of_trust(reason: str) -> str:
    """How to mend what OpenSSL complains about.

    >>> _hint_of_trust("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: expired")[:40]
    "the server's certificate is to be renewe"
    >>> _hint_of_trust("[SSL] PEM lib")[:44]
    'a certificate or key of the kubeconfig is br'
    """
    found = (hint for said, hint in _HINTS_OF_TRUST if said in reason)
    return next(
        found, "a certificate or key of the kubeconfig is broken, or they do not belong together"
    )


def out_of_time(attempt: Attempt, timeout_s: float) -> TimedOut:
    """No answer in the time the call was given."""
    return TimedOut(
        f"no answer within {timeout_s:g} s: {attempt.verb} {attempt.subject}",
        code="kube_timeout",
        hint="try again, or with a longer --timeout",
        retryable=True,
    )
