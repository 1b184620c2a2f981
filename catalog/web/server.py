"""How every service of ours answers HTTP: the same server, with the same caution, whatever it answers."""

import signal
import socket
from types import FrameType
from typing import Any

import uvicorn


def server_config(app: Any, *, ending: int, **more: Any) -> uvicorn.Config:
    """A server's settings.

    Args:
        app: an ASGI application, such as one of FastAPI.
        ending: seconds that an answer which is being given may go on when the service ends.
        more: what is particular to the service, by uvicorn's names.
    """
    given: dict[str, Any] = {"http": "h11", "lifespan": "on"} | more
    return uvicorn.Config(
        app,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,  # which server it is helps those who attack it, and nobody else
        proxy_headers=False,  # who asks is who connected: a header is anybody's word
        timeout_graceful_shutdown=ending,
        **given,
    )


def run_server(server: uvicorn.Server, listening: socket.socket) -> None:
    """Answer on a socket until SIGTERM or SIGINT, in the main thread; the socket is left open."""
    # uvicorn hands the signal that ended it to whoever had it before: to a handler that has nothing left to do.
    before = {name: signal.signal(name, _nothing) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listening])
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _nothing(_signal: int, _frame: FrameType | None) -> None:
    """The handler of a signal that was already obeyed."""
