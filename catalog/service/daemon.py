"""The catalog as a process: lock its directory, recover, listen, report readiness, and stop cleanly."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import uvicorn

from catalog.api.app import create_app
from catalog.client.client import CatalogClient
from catalog.errors import Misused, Unavailable
from catalog.publication.images import PublicationService
from catalog.publication.state_directory import RecoveryReport, own_directory
from catalog.service.gauges import collect_metrics
from catalog.service.mirror import Mirror, run_mirror
from catalog.settings import CatalogSettings
from catalog.web.metrics import RequestMetrics, expose_metrics
from catalog.web.server import run_server, server_config
from signer.runtime.clock import utc_now

CONNECTIONS = 512
"""Connections at once; each holds at most one megabyte of a range. Further ones are answered 503 immediately."""

IDLE_SECONDS = 30
"""How long an idle connection is kept."""

END_SECONDS = 10
"""How long a running request may take to finish when the service stops."""

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
        ready: called once with the URL and the report of the recovery, when requests are answered.
        mirror_of: the URL of the catalog to mirror.
        every: seconds between two polls of that catalog.

    Raises:
        Unavailable: another catalog serves the directory, or the address cannot be listened on.
        Misused: the port is invalid.
    """
    mirror = mirror_of is not None
    with ExitStack() as ending:
        publishing, recovery = ending.enter_context(
            own_directory(settings.directory, settings, utc_now(), mirror=mirror)
        )
        if mirror_of is not None:
            ending.enter_context(_mirroring(publishing, mirror_of, every))
        listening = _listen(settings.listen)
        host, port = listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        requests = RequestMetrics()
        ending.enter_context(expose_metrics(settings.metrics, lambda: collect_metrics(publishing, utc_now()), requests))
        config = server_config(
            requests.watching(create_app(publishing, utc_now, mirror=mirror)),
            ending=END_SECONDS,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
        )
        server = _Server(config, lambda: ready(url, recovery))
        try:
            run_server(server, listening)
        finally:
            listening.close()


@contextmanager
def _mirroring(publishing: PublicationService, url: str, every: float) -> Iterator[None]:
    """Mirror in a thread while the block runs."""
    ended = threading.Event()
    with CatalogClient(url) as client:
        thread = threading.Thread(
            target=run_mirror, args=(Mirror(publishing, client), every, ended, utc_now), name="mirror", daemon=True
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
        raise Misused(f"{where}: the port exceeds 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with ExitStack() as undo:
            found = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            undo.pop_all()
            return found
    except OSError as exc:
        raise Unavailable(f"{where}: cannot listen ({exc.strerror}); choose another address with --listen") from exc
