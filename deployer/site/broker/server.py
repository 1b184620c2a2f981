"""The context broker on an address of its own, where guests reach it: a thread with a server, beside the site's service.

Guests get to see nothing else of the site, and the site's service nothing of them.
"""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from catalog.errors import Misused
from catalog.web import server as answering
from deployer.errors import SiteUnavailable
from deployer.web.server_thread import serve_in_thread
from deployer.web.wakeup import Wakeup

CONNECTIONS = 4096
"""Connections at once: each guest that waits for its peers holds one. More are answered 503 at once."""

IDLE_SECONDS = 30
"""How long a connection without a request is kept."""

END_SECONDS = 5
"""How long an answer that is being given may go on when the service ends."""


def open_broker_listener(where: str) -> socket.socket:
    """A socket that listens at ADDRESS:PORT (port 0 takes a free one).

    Raises:
        Misused: a port that there is not.
        SiteUnavailable: the address is in use, or none of this machine.
    """
    host, _, port = where.rpartition(":")
    if int(port) > 65535:
        raise Misused(f"{where}: a port is at most 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=CONNECTIONS)
    except OSError as exc:
        raise SiteUnavailable(
            f"{where}: cannot be listened on ({exc.strerror}); choose another with site.broker_listen"
        ) from exc


def listener_url(listening: socket.socket, *, tls: bool) -> str:
    """How a socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def serve_broker(
    app: FastAPI, listening: socket.socket, bell: Wakeup, tls: Callable[[], ssl.SSLContext] | None = None
) -> Iterator[None]:
    """Answer requests in a thread while the block runs.

    Args:
        app: see `broker_api.create_broker_app`.
        listening: see `listen`; closed in the end.
        bell: ends long polls when the block ends.
        tls: what to shake hands with, if at all.
    """
    config = answering.server_config(
        app,
        ending=END_SECONDS,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        ssl_context_factory=None if tls is None else lambda _config, _default: tls(),
    )
    with serve_in_thread(
        config, listening, "broker", "the context broker does not start; the service's log has the reason"
    ):
        try:
            yield
        finally:
            bell.end()
