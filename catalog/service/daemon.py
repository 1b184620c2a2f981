"""The catalog as a process: takes its directory over, recovers it, listens, says when it is ready, and ends cleanly."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import uvicorn

from catalog.api.app import create_app
from catalog.client.client import CatalogClient
from catalog.errors import Misused, Unavailable
from catalog.publication.images import PublicationService
from catalog.publication.state_directory import RecoveryReport, own_directory
from catalog.service.gauges import collect_metrics
from catalog.service.mirror import Mirror, run_mirror
from catalog.settings import CatalogSettings
from catalog.web import server as answering
from catalog.web.metrics import RequestMetrics, expose_metrics

CONNECTIONS = 512
"""Connections at once; each holds at most one megabyte of a range. More are answered 503 at once."""

IDLE_SECONDS = 30
"""How long a connection without a request is kept."""

END_SECONDS = 10
"""How long a request that is running may go on when the service is told to end."""

MIRROR_SECONDS = 60.0
"""How often a mirror asks for a newer timestamp: one small request."""

log = logging.getLogger("partita.catalog")


def serve(
    settings: CatalogSettings,
    ready: Callable[[str, RecoveryReport], None],
    *,
    mirror_of: str | None = None,
    every: float = MIRROR_SECONDS,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: directory, address and port to listen on (port 0 takes a free one), limits.
        ready: called once with the URL and what recovery found, when requests are answered.
        mirror_of: the URL of a catalog to be a read-only copy of.
        every: seconds between two looks at that catalog.

    Raises:
        Unavailable: another catalog serves the directory, or the address is in use.
        Misused: the address is none of this machine.
    """
    mirror = mirror_of is not None
    with ExitStack() as ending:
        publishing, recovery = ending.enter_context(own_directory(settings.directory, settings, _now(), mirror=mirror))
        if mirror_of is not None:
            ending.enter_context(_mirroring(publishing, mirror_of, every))
        listening = _listen(settings.listen)
        host, port = listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        requests = RequestMetrics()
        ending.enter_context(expose_metrics(settings.metrics, lambda: collect_metrics(publishing, _now()), requests))
        config = answering.server_config(
            requests.watching(create_app(publishing, _now, mirror=mirror)),
            ending=END_SECONDS,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
        )
        server = _Server(config, lambda: ready(url, recovery))
        try:
            answering.run_server(server, listening)
        finally:
            listening.close()


@contextmanager
def _mirroring(publishing: PublicationService, url: str, every: float) -> Iterator[None]:
    """Mirror in a thread while the block runs."""
    ended = threading.Event()
    with CatalogClient(url) as client:
        thread = threading.Thread(
            target=run_mirror, args=(Mirror(publishing, client), every, ended, _now), name="mirror", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(END_SECONDS)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def _listen(where: str) -> socket.socket:
    host, _, port = where.rpartition(":")
    if int(port) > 65535:
        raise Misused(f"{where}: a port is at most 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with ExitStack() as undo:
            found = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            undo.pop_all()
            return found
    except OSError as exc:
        raise Unavailable(f"{where}: cannot be listened on ({exc.strerror}); choose another with --listen") from exc


def _now() -> datetime:
    return datetime.now(UTC)
