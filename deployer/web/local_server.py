"""Servers of services in their main thread, and the Unix sockets on which they answer their own user."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from deployer.errors import DeployerError


class ServiceServer(uvicorn.Server):
    """A server that reports when it is ready, and ends waits and streams at the signal.

    Args:
        config: see `catalog.web.server.server_config`.
        ready: called once, when requests are served.
        ending: called when the signal to end comes.
        local: a second socket, without TLS, for the same loop.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None],
        ending: Callable[[], None],
        local: socket.socket | None = None,
    ) -> None:
        super().__init__(config)
        self._tell_ready, self._ending, self._local = ready, ending, local

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, also on the second socket."""
        await super().startup(sockets)
        if not self.started:
            return

        def protocol() -> asyncio.Protocol:
            kind, state = self.config.http_protocol_class, self.lifespan.state
            return kind(config=self.config, server_state=self.server_state, app_state=state)  # type: ignore[call-arg]

        if self._local is not None:
            loop = asyncio.get_running_loop()
            self.servers.append(await loop.create_unix_server(protocol, sock=self._local, backlog=self.config.backlog))
        self._tell_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End waits and streams at the signal, then the server."""
        self._ending()
        super().handle_exit(sig, frame)


@contextmanager
def listen_locally(place: Path, unavailable: type[DeployerError]) -> Iterator[socket.socket]:
    """A bound socket for this user alone; raises `unavailable` if it cannot be made.

    The service owns its directory by now, so a file in the way is from a dead process.
    """
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            found.bind(str(place))
        finally:
            os.umask(mask)
    except OSError as exc:
        raise unavailable(f"{place}: cannot listen there: {exc.strerror or exc}") from exc
    with found:
        yield found
    place.unlink(missing_ok=True)
