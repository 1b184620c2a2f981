"""A server in a thread of a service, on a socket of its own."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from deployer.errors import SiteUnavailable

START_SECONDS = 30.0
"""How long a server may take until it answers; it takes some milliseconds."""


@contextmanager
def serve_in_thread(config: uvicorn.Config, listening: socket.socket, name: str, otherwise: str) -> Iterator[None]:
    """Serve requests while the block runs.

    Args:
        config: see `catalog.web.server.server_config`.
        listening: the socket; closed at the end.
        name: of the thread.
        otherwise: the message if it does not start.

    Raises:
        SiteUnavailable: it did not start.
    """
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name=name, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > until:
                raise SiteUnavailable(otherwise)
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join(2 * (config.timeout_graceful_shutdown or 0))
        listening.close()
