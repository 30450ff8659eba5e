"""What error codes mean, for people who read a report."""

from __future__ import annotations

_MEANINGS = {
    "unreachable": "No connection could be opened: nothing listens there, or it is too busy.",
    "bad_host_name": "The endpoint's host is no name that can be looked up.",
    "tls_failed": "The server's certificate or its TLS was not accepted.",
    "connection_lost": "The connection ended before an answer began.",
    "truncated": "The answer began and then stopped short.",
    "not_http": "What came was not HTTP, or its head had no end.",
    "bad_answer": "What came was not what the API answers.",
    "empty_answer": "The answer came to its end without a single token.",
    "answer_too_long": "More came than an answer can be long; the generator left.",
    "timeout": "No whole answer came within the run's time limit; the generator left.",
    "unfinished": "The run ended before the answer did.",
    "interrupted": "The run was stopped while the answer was under way.",
    "error_event": "The stream carried an error instead of its next token.",
    "response_failed": "The server declared its own answer a failure.",
    "generator_out_of_sockets": "The generator had no sockets left: not the server's fault.",
    "generator_failed": "The generator has a bug with this answer: not the server's fault.",
    "engine_overloaded": "Every replica was full, so the server turned the request away.",
    "gateway_overloaded": "The gateway had as many requests, or bytes, as it takes, and refused.",
    "engine_unavailable": "No replica was there to answer.",
    "engine_failed": "The replica failed while it answered.",
    "engine_timeout": "The replica did not answer in the server's own time limit.",
    "model_not_ready": "The model was still loading.",
    "model_not_found": "The server does not serve that model, or not to this key.",
    "platform_stopping": "The server was shutting down.",
    "rate_limit_exceeded": "The tenant asked for more than its quota.",
    "context_length_exceeded": "Prompt and answer were longer than the model's context.",
    "invalid_api_key": "The server did not accept the API key.",
    "missing_api_key": "The server wants an API key.",
    "internal_error": "A fault of the server; its log says more.",
}

_STATUS_MEANINGS = {
    429: "The server turned the request away: too many at once, or over a quota.",
    500: "A fault of the server; its log says more.",
    502: "A proxy got no proper answer from the server behind it.",
    503: "The server could not take the request at that moment.",
    504: "A proxy waited too long for the server behind it.",
}


def meaning(code: str) -> str:
    """A sentence on a code of the generator, of the server, or `http_` with a status.

    >>> meaning("http_502")
    'A proxy got no proper answer from the server behind it.'
    >>> meaning("http_404")
    'The server refused the request with status 404.'
    >>> meaning("flux_failure")
    "The server's own code; its documentation says more."
    """
    if known := _MEANINGS.get(code):
        return known
    prefix, _, status = code.partition("http_")
    if prefix or not status.isdecimal():
        return "The server's own code; its documentation says more."
    return _STATUS_MEANINGS.get(
        int(status), f"The server refused the request with status {status}."
    )
