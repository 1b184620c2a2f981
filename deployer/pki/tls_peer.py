"""Who is at the other end of a connection, as far as the connection itself proves it; uvicorn is told to look.

uvicorn does not hand client certificates to an application. This module's protocol looks once per connection, when the
handshake is over, and puts what it finds into the scope of each request: nothing that a request says can change it.
A resumed TLS session proves no chain again, so it counts as one without a certificate.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import Any, cast

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

EXTENSION = "partita.peer"
"""The name under which the scope has it."""

GOODBYE_SECONDS = 0.5
"""How long the end of a TLS connection may take when the service ends."""

MAX_CHAIN = 16
"""Certificates of a chain: a CA's, an owner's, and some proxies."""


@dataclass(frozen=True)
class TlsPeer:
    """The other end.

    Attributes:
        chain: certificates (DER) that were verified against the CAs of this service, the peer's own first; empty
            where it showed none.
        local: it came by the operator's own socket.
        address: its IP address, or empty.
    """

    chain: tuple[bytes, ...] = ()
    local: bool = False
    address: str = ""


def peer_of(request: HTTPConnection) -> TlsPeer:
    """Who sends a request; somebody of whom nothing is known where no protocol looked."""
    found = request.scope.get("extensions", {}).get(EXTENSION)
    return found if isinstance(found, TlsPeer) else TlsPeer()


class PeerProtocol(H11Protocol):
    """HTTP/1.1 that knows its peer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The connection, and the TLS handshake on it, are made."""
        super().connection_made(transport)
        self.app = cast("Any", _with(self.app, _peer(transport)))

    def shutdown(self) -> None:
        """The service ends: let the connection go, once its answer is given.

        A peer of a TLS connection that is idle does not read, so it says no goodbye: it is not waited for.
        """
        super().shutdown()
        if self.transport.is_closing() and self.transport.get_extra_info("ssl_object") is not None:
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)


def _with(app: Any, peer: TlsPeer) -> ASGIApp:
    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        extensions = {**scope.get("extensions", {}), EXTENSION: peer}
        await app({**scope, "extensions": extensions}, receive, send)

    return known


def _peer(transport: asyncio.Transport) -> TlsPeer:
    secure = transport.get_extra_info("ssl_object")
    name = transport.get_extra_info("peername")
    address = str(name[0]) if isinstance(name, tuple) and name else ""
    if secure is not None:
        return TlsPeer(peer_chain(secure), address=address)
    # By the kind of socket, never by a name that is missing: a TCP peer that has gone away has none either.
    return TlsPeer(local=transport.get_extra_info("socket").family == socket.AF_UNIX, address=address)


def peer_chain(secure: ssl.SSLObject) -> tuple[bytes, ...]:
    """The certificates (DER) of a connection's verified peer, its own first; none where it showed none."""
    if secure.getpeercert(binary_form=True) is None:
        return ()
    # Public as SSLObject.get_verified_chain from Python 3.13 on, which gives bytes.
    public = getattr(secure, "get_verified_chain", None)
    found = (public or secure._sslobj.get_verified_chain)() or []  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    chain = tuple(one if isinstance(one, bytes) else ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in found)
    return chain if len(chain) <= MAX_CHAIN else ()
