"""A server that is no API: a login page, or a gatekeeper of TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HOST = "127.0.0.1"


@contextmanager
def page_server(tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server that answers whatever it is asked with a page."""
    with ThreadingHTTPServer((_HOST, 0), _Page) as server:
        if tls is not None:
            # In TLS 1.3 clients are done before they are refused, and may miss why.
            tls.maximum_version = ssl.TLSVersion.TLSv1_2
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"{'https' if tls else 'http'}://{_HOST}:{server.server_port}"
        server.shutdown()
        thread.join(10)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<html>\n<p>log in</p></html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""
