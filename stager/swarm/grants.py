"""What opens swarms to this node: announce keys and, for restricted contents, short-lived certificates. From the catalog.

A node without a credential is a stranger: all that it gets is public, and needs no pass. With one, the catalog is asked
for each content. The private key is made here and never leaves this machine. The only door of this package to the library
that makes it.
"""

import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from catalog.errors import CatalogError, Unavailable
from catalog.image.address import Address
from catalog.schema.swarms import SwarmGrant
from stager.errors import TrackerRefuses, TrackerUnavailable

CATALOG_RETRY = timedelta(seconds=10)
"""For how long a catalog that did not answer is not asked again: a node may have a thousand contents to ask for."""

RENEW = timedelta(hours=6)
"""How long before its end a pass is replaced: half of its life."""


@dataclass(frozen=True)
class SwarmCredentials:
    """What a node shows in the swarm of one content; empty members where the content is public.

    Attributes:
        grant: the announce key.
        authority: the certificate (PEM) that is part of the info dict; its presence makes the swarm a restricted one.
        certificate, key: the node's own (PEM).
        expires: until when it is good; None for ever.
    """

    grant: str = ""
    authority: bytes = b""
    certificate: str = ""
    key: str = ""
    expires: datetime | None = None


PUBLIC_CREDENTIALS = SwarmCredentials()
"""Of contents that everybody may read."""

CredentialsProvider = Callable[[Address], SwarmCredentials]
"""Gives the pass for a content; raises TrackerRefuses where this node may not have it, TrackerUnavailable if unknown now."""


def public_credentials(_: Address) -> SwarmCredentials:
    """The admission of a stranger."""
    return PUBLIC_CREDENTIALS


class GrantIssuer(Protocol):
    """What of `catalog.client.client.CatalogClient` is needed; errors are catalog.errors."""

    def grant(self, address: Address, node: str, request: str | None = None) -> SwarmGrant:
        """What opens the swarm of a content."""
        ...


def node_label() -> str:
    """How this node calls itself: its host's name, as far as that is a label."""
    return re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()).strip("-")[:63] or "node"


class CatalogCredentialsProvider:
    """An Admission that asks the catalog, and remembers. Safe to use from several threads.

    Args:
        catalog: whom to ask, with the site's credential.
        node: how this node calls itself.
        now: the time, UTC.
    """

    def __init__(
        self, catalog: GrantIssuer, node: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._catalog, self._node, self._now = catalog, node, now
        self._lock = threading.Lock()
        self._held: dict[Address, SwarmCredentials] = {}
        self._away: datetime | None = None
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        self._request = request.public_bytes(serialization.Encoding.PEM).decode("ascii")
        self._key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode("ascii")

    def forget(self, address: Address) -> None:
        """Ask anew for a content's pass: what it is good for has changed."""
        with self._lock:
            self._held.pop(address, None)

    def __call__(self, address: Address) -> SwarmCredentials:
        """The pass for a content.

        Raises:
            TrackerUnavailable: the catalog cannot be asked now, and no pass is held.
            TrackerRefuses: this node may not take part.
        """
        now = self._now()
        with self._lock:
            held = self._held.get(address)
        if held is not None and held.expires is not None and now < held.expires - RENEW:
            return held
        resting = self._away is not None and now < self._away + CATALOG_RETRY
        try:
            granted = None if resting else self._catalog.grant(address, self._node, self._request)
            reason = "the catalog did not answer just now"
        except Unavailable as exc:
            granted, self._away, reason = None, now, str(exc)
        except CatalogError as exc:
            raise TrackerRefuses(f"no pass for the swarm of {address}: {exc}") from exc
        if granted is None:
            if held is not None and held.expires is not None and now < held.expires:
                return held
            raise TrackerUnavailable(f"no pass for the swarm of {address}: {reason}")
        authority = (granted.authority or "").encode("ascii")
        got = SwarmCredentials(
            granted.grant,
            authority,
            (granted.certificate or "") if authority else "",
            self._key if authority else "",
            granted.expires,
        )
        with self._lock:
            self._held[address] = got
        return got
