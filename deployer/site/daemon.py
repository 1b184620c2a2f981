"""The site's process: opens its state, listens, reports when it is ready, and ends cleanly.

HTTPS for everyone, and a Unix socket for the operator alone: opening it needs no other credentials.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvicorn

from catalog.errors import Misused
from catalog.web.metrics import RequestMetrics, expose_metrics
from catalog.web.server import run_server, server_config
from deployer.errors import SiteUnavailable
from deployer.pki.tls_peer import PeerProtocol
from deployer.site.api.app import create_site_app
from deployer.site.broker.api import create_broker_app, make_guest_limiter
from deployer.site.broker.server import listener_url, serve_broker
from deployer.site.client.discovery import operator_socket
from deployer.site.console.app import console_routes
from deployer.site.gauges import site_metrics
from deployer.site.service.site import Site, SiteExtension
from deployer.site.settings import SiteSettings
from deployer.web.local_server import ServiceServer, listen_locally

CONNECTIONS = 4096
"""Connections at once: each node holds one all the time. More get 503."""

IDLE_SECONDS = 60
"""How long a connection without a request is kept."""

END_SECONDS = 10
"""How long an answer may go on when the service is told to end."""

MAX_HEADERS = 64 << 10
"""Bytes of a request's line and headers: a token with some hundred groups."""


def serve_site(
    settings: SiteSettings, ready: Callable[[str, Path, Site], None], extension: SiteExtension = SiteExtension()
) -> None:
    """Serve until SIGTERM or SIGINT. Machines keep running after that.

    Args:
        settings: of the site.
        ready: called once with the URL, the socket's path and the site, when requests are served.
        extension: lets machines run elsewhere than on nodes.

    Raises:
        What Site.open raises; SiteUnavailable when an address cannot be used; Misused when a port is out of range.
    """
    with ExitStack() as ending:
        listening = ending.enter_context(bind_address(settings.listen, "site.listen"))
        host, port = listening.getsockname()[:2]
        site = Site.open(settings, site_url(settings, host, port), extension=extension)
        ending.callback(site.close)
        if settings.broker_listen:
            ending.enter_context(_broker(site))
        ending.enter_context(extension.run(site))
        place = operator_socket(settings)
        local = ending.enter_context(listen_locally(place, SiteUnavailable))
        requests = RequestMetrics()
        ending.enter_context(
            expose_metrics(settings.metrics, lambda: site_metrics(site.status(), site.store), requests)
        )
        config = _config(site, requests)
        run_server(ServiceServer(config, lambda: ready(site.url, place, site), site.wakeup.end, local), listening)


@contextmanager
def _broker(site: Site) -> Iterator[None]:
    """Serve the context broker on its own address, with TLS where its URL is https."""
    listening = bind_address(site.settings.broker_listen, "site.broker_listen")
    listening.listen(CONNECTIONS)
    url = site.settings.broker_url or listener_url(listening, tls=False)
    app = create_broker_app(site.invite(url), make_guest_limiter(), site.broker_wakeup)
    tls = (lambda: site.tls.context) if url.startswith("https:") else None
    with serve_broker(app, listening, site.broker_wakeup, tls):
        yield


def site_url(settings: SiteSettings, host: str, port: int) -> str:
    """The site's URL: as set, else of its first name and the port that it listens on."""
    if settings.url:
        return settings.url.rstrip("/")
    name = settings.names[0] if settings.names else host
    return f"https://[{name}]:{port}" if ":" in name else f"https://{name}:{port}"


def _config(site: Site, requests: RequestMetrics) -> uvicorn.Config:
    return server_config(
        requests.watching(create_site_app(site, (console_routes,))),
        ending=END_SECONDS,
        http=PeerProtocol,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        h11_max_incomplete_event_size=MAX_HEADERS,
        ssl_context_factory=lambda _config, _default: site.tls.context,
    )


def bind_address(where: str, setting: str) -> socket.socket:
    """A socket bound to ADDRESS:PORT (port 0 takes a free one); `setting` names where the address comes from.

    Raises:
        Misused: the port is out of range. SiteUnavailable: the address is in use, or not one of this machine.
    """
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
        raise SiteUnavailable(f"{where}: cannot listen there ({exc.strerror}); choose another with {setting}") from exc
    return found
