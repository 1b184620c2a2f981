"""What a service shows, whose certificates it takes, and what of a connection gets to an application."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.requests import HTTPConnection

from catalog.errors import Misused
from deployer.errors import NotAuthenticated, SiteUnavailable
from deployer.pki.ca import CertificateAuthority, create_request, fingerprint
from deployer.pki.tls_peer import PeerProtocol, TlsPeer, peer_of
from deployer.site.client.client import SiteClient, fetch_anchors
from deployer.site.client.endpoint import SiteEndpoint
from deployer.site.service.server_tls import SERVER_LIFE, ServerTls
from deployer.site.settings import SiteSettings
from tests.support.node.service_process import wait_for
from tests.support.site.service_process import PaperNode, SiteProcess

NOW = datetime.now(UTC)
LIFE = timedelta(days=30)


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    """The site's CA."""
    return CertificateAuthority.make(NOW)


def settings(place: Path, **values: Any) -> SiteSettings:
    """Of a site in a directory that is there."""
    place.mkdir(exist_ok=True)
    return SiteSettings(directory=place, names=("127.0.0.1",), **values)


@contextmanager
def looking(tls: ServerTls) -> Iterator[tuple[int, list[TlsPeer]]]:
    """A server that answers everything, and remembers whom it saw; its port."""
    seen: list[TlsPeer] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen.append(peer_of(HTTPConnection(scope)))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(
        app, http=PeerProtocol, ws="none", lifespan="off", log_config=None, ssl_context_factory=lambda *_: tls.context
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        wait_for(lambda: server.started)
        try:
            yield listening.getsockname()[1], seen
        finally:
            server.should_exit = True
            thread.join()


def ask(port: int, context: ssl.SSLContext, extra: str = "") -> bytes:
    """A request by hand."""
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(f"GET / HTTP/1.1\r\nHost: x\r\n{extra}Connection: close\r\n\r\n".encode())
        return secure.recv(4096)


def trusting(
    authority: CertificateAuthority, *, certificate: str = "", key: bytes = b"", place: Path | None = None
) -> ssl.SSLContext:
    """A client's context that believes a site, and shows a certificate if it has one."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    if place is not None:
        (place / "shown.pem").write_bytes(certificate.encode() + key)
        context.load_cert_chain(place / "shown.pem")
    return context


def test_a_verified_chain_gets_to_the_application(authority: CertificateAuthority, tmp_path: Path) -> None:
    """Own certificate first; without one none; and nothing that a request says changes it."""
    tls = ServerTls(settings(tmp_path / "s"), authority, NOW)
    key, request = create_request()
    certificate = authority.node(request, "n", NOW, LIFE)
    with looking(tls) as (port, seen):
        shown = trusting(authority, certificate=certificate, key=key, place=tmp_path)
        assert b" 204 " in ask(port, shown)
        assert b" 204 " in ask(port, trusting(authority), "X-Partita-Peer: n\r\nX-SSL-Client-Cert: abc\r\n")
    assert [authority.node_of(one.chain, NOW) for one in seen] == ["n", None]
    assert [one.chain == () for one in seen] == [False, True]
    assert {(one.local, one.address) for one in seen} == {(False, "127.0.0.1")}


def test_certificates_of_others_end_the_handshake(authority: CertificateAuthority, tmp_path: Path) -> None:
    """Another CA's, and one whose time is over, are not taken for none: the connection ends."""
    tls = ServerTls(settings(tmp_path / "s"), authority, NOW)
    key, request = create_request()
    other = CertificateAuthority.make(NOW)
    with looking(tls) as (port, seen):
        for issuer, when in ((other, NOW), (authority, NOW - 2 * LIFE)):
            certificate = issuer.node(request, "n", when, LIFE)
            shown = trusting(authority, certificate=certificate, key=key, place=tmp_path)
            try:
                answered = ask(port, shown)
            except (ssl.SSLError, ConnectionError):
                answered = b""
            assert answered == b""
    assert seen == []


def test_old_protocols_are_not_spoken(authority: CertificateAuthority, tmp_path: Path) -> None:
    """TLS 1.1 ends the handshake."""
    tls = ServerTls(settings(tmp_path / "s"), authority, NOW)
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_the_service_renews_its_own_certificate(authority: CertificateAuthority, tmp_path: Path) -> None:
    """When a third of its time is left, and not before; the file is for its user alone."""
    tls = ServerTls(settings(tmp_path / "s"), authority, NOW)
    first = tls.shown
    tls.renew(NOW + SERVER_LIFE / 2)
    assert tls.shown == first
    tls.renew(NOW + SERVER_LIFE * 0.7)
    assert tls.shown != first
    assert (tmp_path / "s" / "tls.pem").stat().st_mode & 0o077 == 0


def test_a_certificate_from_elsewhere(make_site: Callable[..., SiteProcess], tmp_path: Path) -> None:
    """Nodes are given its CA when they join, and the fingerprint in the token is over both."""
    elsewhere = CertificateAuthority.make(NOW)
    pair = elsewhere.server(["127.0.0.1"], NOW, LIFE)
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(pair.certificate + elsewhere.certificate)
    key.write_bytes(pair.key)
    site = make_site(certificate=str(certificate), key=str(key))
    node = PaperNode(site, "one")
    node.step()
    anchors = (node.directory / "site.pem").read_bytes()
    assert anchors.endswith(elsewhere.certificate)
    with site.client() as client:
        assert client.status().fingerprint == fingerprint(anchors) != fingerprint(elsewhere.certificate)
    # Whoever believes the other CA alone believes the service, too.
    with (
        SiteClient(SiteEndpoint(url=site.url, ca=elsewhere.certificate.decode())) as client,
        pytest.raises(NotAuthenticated),
    ):
        client.status()


def test_settings_that_do_not_fit_are_said(authority: CertificateAuthority, tmp_path: Path) -> None:
    """A certificate without its key, files that are none, a directory that is not there."""
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("")
    for values in (
        {"certificate": nothing},
        {"key": nothing},
        {"certificate": nothing, "key": nothing},
        {"certificate": tmp_path / "none", "key": nothing},
        {"grid_certificates": tmp_path / "none"},
    ):
        with pytest.raises(Misused):
            ServerTls(settings(tmp_path / "s", **values), authority, NOW)


def test_a_site_is_believed_by_its_fingerprint_alone(bare_site: SiteProcess) -> None:
    """Whoever answers with another CA is not the site of the token; nobody there is said."""
    with bare_site.client() as client:
        wanted = client.status().fingerprint
    assert fingerprint(fetch_anchors(bare_site.url, wanted).certificates.encode()) == wanted
    with pytest.raises(Misused, match="from another site"):
        fetch_anchors(bare_site.url, "0" * 64)
    with pytest.raises(SiteUnavailable):
        fetch_anchors("https://127.0.0.1:9", wanted)
    with SiteClient(SiteEndpoint(url=bare_site.url)) as stranger, pytest.raises(SiteUnavailable, match="certificate"):
        stranger.status()
