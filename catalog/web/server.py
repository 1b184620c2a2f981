"""Configuration and main loop of the HTTP server of all services."""

import signal
import socket
from typing import Any

import uvicorn


def server_config(app: Any, *, ending: int, **more: Any) -> uvicorn.Config:
    """The configuration of a server.

    Args:
        app: an ASGI application, such as one of FastAPI.
        ending: seconds for responses in progress when the service ends.
        more: options of the service, by uvicorn's names.
    """
    given: dict[str, Any] = {"http": "h11", "lifespan": "on"} | more
    return uvicorn.Config(
        app,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,  # the name of the server only helps attackers
        proxy_headers=False,  # the client is the peer of the connection, as headers can be forged
        timeout_graceful_shutdown=ending,
        **given,
    )


def run_server(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serve on a socket until SIGTERM or SIGINT, in the main thread; the socket is left open."""
    # uvicorn raises the signal that ended it again, for the previous handler: here one that does nothing.
    before = {name: signal.signal(name, lambda *_: None) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listening])
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
