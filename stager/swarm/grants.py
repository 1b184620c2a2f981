"""The node's credentials for swarms: announce keys and, for restricted contents, short-lived certificates.

A node without a site credential only gets public contents, which need no swarm credentials. With one, the catalog is
asked for each content. The private key is made here and never leaves this machine. The only module of this package that
imports `cryptography`.
"""

import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from catalog.errors import CatalogError, Unavailable
from catalog.image.address import Address
from catalog.schema.swarms import SwarmGrant
from signer.runtime.clock import utc_now
from stager.errors import TrackerRefuses, TrackerUnavailable

CATALOG_RETRY = timedelta(seconds=10)
"""How long a catalog that did not answer is not asked again: a node may have a thousand contents to ask for."""

RENEW = timedelta(hours=6)
"""How long before they expire credentials are renewed: half of their lifetime."""


@dataclass(frozen=True)
class SwarmCredentials:
    """A node's credentials for the swarm of one content; empty members if the content is public.

    Attributes:
        grant: the announce key.
        authority: the CA certificate (PEM) that is part of the info dict; with one the swarm is restricted.
        certificate, key: the node's own (PEM).
        expires: when they expire; None for never.
    """

    grant: str = ""
    authority: bytes = b""
    certificate: str = ""
    key: str = ""
    expires: datetime | None = None


PUBLIC_CREDENTIALS = SwarmCredentials()
"""The credentials for public contents."""

CredentialsProvider = Callable[[Address], SwarmCredentials]
"""Gives the credentials for a content; raises TrackerRefuses if this node may not have it, TrackerUnavailable if that
cannot be found out now."""


def public_credentials(_: Address) -> SwarmCredentials:
    """The provider of a node without a site credential."""
    return PUBLIC_CREDENTIALS


GrantIssuer = Callable[[Address, str, str], SwarmGrant]
"""Issues a grant for the swarm of a content to a node; the last argument is a certificate request (PEM). Errors are
catalog.errors. `catalog.client.client.CatalogClient.grant` is one."""


def node_label() -> str:
    """Return this node's label: its host name, with other characters replaced."""
    return re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname()).strip("-")[:63] or "node"


class CatalogCredentialsProvider:
    """A CredentialsProvider that asks the catalog and caches its grants. Safe to use from several threads.

    Args:
        issue: asks the catalog for a grant, with the site's credential.
        node: this node's label.
        now: the time, UTC.
    """

    def __init__(self, issue: GrantIssuer, node: str, now: Callable[[], datetime] = utc_now) -> None:
        self._issue, self._node, self._now = issue, node, now
        self._lock = threading.Lock()
        self._held: dict[Address, SwarmCredentials] = {}
        self._unavailable_since: datetime | None = None
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        self._request = request.public_bytes(serialization.Encoding.PEM).decode("ascii")
        self._key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode("ascii")

    def forget(self, address: Address) -> None:
        """Drop a content's credentials, since its swarm has changed."""
        with self._lock:
            self._held.pop(address, None)

    def __call__(self, address: Address) -> SwarmCredentials:
        """Return the credentials for a content.

        Raises:
            TrackerUnavailable: the catalog cannot be asked now, and no valid credentials are cached.
            TrackerRefuses: this node may not take part.
        """
        now = self._now()
        with self._lock:
            held = self._held.get(address)
        if held is not None and held.expires is not None and now < held.expires - RENEW:
            return held
        paused = self._unavailable_since is not None and now < self._unavailable_since + CATALOG_RETRY
        try:
            granted = None if paused else self._issue(address, self._node, self._request)
            reason = "the catalog did not answer a moment ago"
        except Unavailable as exc:
            granted, self._unavailable_since, reason = None, now, str(exc)
        except CatalogError as exc:
            raise TrackerRefuses(f"no credentials for the swarm of {address}: {exc}") from exc
        if granted is None:
            if held is not None and held.expires is not None and now < held.expires:
                return held
            raise TrackerUnavailable(f"no credentials for the swarm of {address}: {reason}")
        authority = (granted.authority or "").encode("ascii")
        certificate, key = (granted.certificate or "", self._key) if authority else ("", "")
        got = SwarmCredentials(granted.grant, authority, certificate, key, granted.expires)
        with self._lock:
            self._held[address] = got
        return got
