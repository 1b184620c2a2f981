"""The peer of a connection, as far as the connection itself proves it: a protocol for uvicorn.

uvicorn does not hand client certificates to an application. This module's protocol reads them once per connection, when
the handshake is over, and puts the result into the scope of each request: nothing in a request can change it.
A resumed TLS session does not prove a chain again, so it counts as one without a certificate.
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
"""The key of the peer in the scope's extensions."""

GOODBYE_SECONDS = 0.5
"""How long closing a TLS connection may take when the service ends."""

MAX_CHAIN = 16
"""Most certificates of a chain: a CA's, an owner's, and some proxies."""


@dataclass(frozen=True)
class TlsPeer:
    """The peer of a connection.

    Attributes:
        chain: certificates (DER) that were verified against the CAs of this service, the peer's own first; empty
            where it presented none.
        local: whether it came by the operator's own socket.
        address: its IP address, or empty.
    """

    chain: tuple[bytes, ...] = ()
    local: bool = False
    address: str = ""


def peer_of(request: HTTPConnection) -> TlsPeer:
    """The peer that sent a request; without any proof where another protocol accepted the connection."""
    found = request.scope.get("extensions", {}).get(EXTENSION)
    return found if isinstance(found, TlsPeer) else TlsPeer()


class PeerProtocol(H11Protocol):
    """HTTP/1.1 that adds the peer to each request's scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Read the peer: the connection and its TLS handshake are complete."""
        super().connection_made(transport)
        self._tls = transport.get_extra_info("ssl_object") is not None
        self.app = cast("Any", _with(self.app, _peer(transport)))

    def shutdown(self) -> None:
        """Close the connection, once its answer is sent.

        The peer of an idle TLS connection does not read, so it sends no close_notify: it is not waited for.
        """
        super().shutdown()
        if self._tls and self.transport.is_closing():  # asked at the start: a transport closed twice cannot tell
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
    # By the kind of socket, never by a missing name: a TCP peer that has disconnected has none either.
    return TlsPeer(local=transport.get_extra_info("socket").family == socket.AF_UNIX, address=address)


def peer_chain(secure: ssl.SSLObject) -> tuple[bytes, ...]:
    """The certificates (DER) of a connection's verified peer, its own first; empty where it presented none."""
    if secure.getpeercert(binary_form=True) is None:
        return ()
    # Public as SSLObject.get_verified_chain from Python 3.13 on, which gives bytes.
    public = getattr(secure, "get_verified_chain", None)
    found = (public or secure._sslobj.get_verified_chain)() or []  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    chain = tuple(one if isinstance(one, bytes) else ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in found)
    return chain if len(chain) <= MAX_CHAIN else ()
