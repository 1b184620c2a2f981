"""The context broker on an address of its own, for guests: a server in a thread, beside the site's service.

Guests can reach nothing else of the site, and the site's service does not see their requests.
"""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from catalog.web.server import server_config
from deployer.web.server_thread import serve_in_thread
from deployer.web.wakeup import Wakeup

CONNECTIONS = 4096
"""Connections at once: each guest that waits for its peers holds one. More get 503."""

IDLE_SECONDS = 30
"""How long a connection without a request is kept."""

END_SECONDS = 5
"""How long an answer may go on when the service ends."""


def listener_url(listening: socket.socket, *, tls: bool) -> str:
    """The URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def serve_broker(
    app: FastAPI, listening: socket.socket, wakeup: Wakeup, tls: Callable[[], ssl.SSLContext] | None = None
) -> Iterator[None]:
    """Serve the broker in a thread while the block runs.

    Args:
        app: see `api.create_broker_app`.
        listening: the bound socket; closed at the end.
        wakeup: ends long polls when the block ends.
        tls: returns the TLS context; None for plain HTTP.
    """
    config = server_config(
        app,
        ending=END_SECONDS,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls(),
    )
    with serve_in_thread(
        config, listening, "broker", "the context broker did not start; the service's log has the reason"
    ):
        try:
            yield
        finally:
            wakeup.end()
