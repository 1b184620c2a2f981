"""The site as a process: opens what it remembers, listens, says when it is ready, and ends cleanly.

HTTPS for everybody, and a Unix socket for the operator alone: whoever may open that needs to show nothing.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from catalog.errors import Misused
from catalog.web import server as answering
from catalog.web.metrics import RequestMetrics, expose_metrics
from deployer.errors import SiteUnavailable
from deployer.pki.tls_peer import PeerProtocol
from deployer.site.api.app import create_site_app
from deployer.site.broker import server as broker_serving
from deployer.site.broker.api import create_broker_app, make_guest_limiter
from deployer.site.client.discovery import operator_socket
from deployer.site.console.app import console_routes
from deployer.site.gauges import site_figures
from deployer.site.service.site import Site, SiteExtension
from deployer.site.settings import SiteSettings

CONNECTIONS = 4096
"""Connections at once: each node holds one all the time. More are answered 503 at once."""

IDLE_SECONDS = 60
"""How long a connection without a request is kept."""

END_SECONDS = 10
"""How long an answer that is being given may go on when the service is told to end."""

MAX_HEADERS = 64 << 10
"""Bytes of a request's line and headers: a token with some hundred groups."""


def serve_site(
    settings: SiteSettings,
    ready: Callable[[str, Path, Site], None],
    extension: SiteExtension = SiteExtension(),
) -> None:
    """Serve until SIGTERM or SIGINT. Machines go on after that.

    Args:
        settings: of the site.
        ready: called once with the URL, the socket's path and the site, when requests are answered.
        extension: what lets its machines run elsewhere than on nodes.

    Raises:
        What Site.open raises; SiteUnavailable when an address is in use; Misused when it is none of this machine.
    """
    with ExitStack() as ending:
        listening = ending.enter_context(_listen(settings.listen))
        host, port = listening.getsockname()[:2]
        site = Site.open(settings, site_url(settings, host, port), extension=extension)
        ending.callback(site.close)
        if settings.broker_listen:
            ending.enter_context(_brokering(site))
        ending.enter_context(extension.run(site))
        place = operator_socket(settings)
        local = ending.enter_context(_listen_local(place))
        requests = RequestMetrics()
        ending.enter_context(
            expose_metrics(settings.metrics, lambda: site_figures(site.status(), site.store), requests)
        )
        config = _config(site, requests)
        server = _Server(config, local, lambda: ready(site.url, place, site), site.bell.end)
        answering.run_server(server, listening)


@contextmanager
def _brokering(site: Site) -> Iterator[None]:
    """The context broker on its own address, with TLS where its URL says so."""
    listening = broker_serving.open_broker_listener(site.settings.broker_listen)
    url = site.settings.broker_url or broker_serving.listener_url(listening, tls=False)
    app = create_broker_app(site.invite(url), make_guest_limiter(), site.broker_bell)
    tls = (lambda: site.tls.context) if url.startswith("https:") else None
    with broker_serving.serve_broker(app, listening, site.broker_bell, tls):
        yield


def site_url(settings: SiteSettings, host: str, port: int) -> str:
    """What the site calls itself: as set, else by its first name and the port that it listens on."""
    if settings.url:
        return settings.url.rstrip("/")
    name = settings.names[0] if settings.names else host
    return f"https://[{name}]:{port}" if ":" in name else f"https://{name}:{port}"


def _config(site: Site, requests: RequestMetrics) -> uvicorn.Config:
    return answering.server_config(
        requests.watching(create_site_app(site, (console_routes,))),
        ending=END_SECONDS,
        http=PeerProtocol,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        h11_max_incomplete_event_size=MAX_HEADERS,
        ssl_context_factory=lambda _config, _default: site.tls.context,
    )


class _Server(uvicorn.Server):
    """One loop for both sockets; TLS on the one only."""

    def __init__(
        self, config: uvicorn.Config, local: socket.socket, ready: Callable[[], None], ending: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._local, self._tell_ready, self._ending = local, ready, ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return

        def protocol() -> asyncio.Protocol:
            return PeerProtocol(self.config, self.server_state, self.lifespan.state)

        loop = asyncio.get_running_loop()
        self.servers.append(await loop.create_unix_server(protocol, sock=self._local, backlog=self.config.backlog))
        self._tell_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal to end: answers that would go on for long learn of it now."""
        self._ending()
        super().handle_exit(sig, frame)


@contextmanager
def _listen(where: str) -> Iterator[socket.socket]:
    host, _, port = where.rpartition(":")
    if int(port) > 65535:
        raise Misused(f"{where}: a port is at most 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except BaseException:
            found.close()
            raise
    except OSError as exc:
        raise SiteUnavailable(
            f"{where}: cannot be listened on ({exc.strerror}); choose another with site.listen"
        ) from exc
    with found:
        yield found


@contextmanager
def _listen_local(place: Path) -> Iterator[socket.socket]:
    """A socket for this user alone. The site owns its directory by now: what is in the way was left by a dead one."""
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
        raise SiteUnavailable(f"{place}: the site cannot listen there: {exc.strerror or exc}") from exc
    with found:
        yield found
    place.unlink(missing_ok=True)
