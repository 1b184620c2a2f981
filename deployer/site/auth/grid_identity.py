"""Principals from X.509 certificates: the holder behind a chain, with their VOMS attributes."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from catalog.errors import Misused
from deployer.errors import NotAuthenticated, SiteUnavailable
from deployer.site.auth.grants import CERTIFICATE_MEANS, LIMITED_MEANS
from deployer.site.auth.proxy_certificates import find_holder
from deployer.site.auth.voms import VomsDirectory, VomsMembership, read_membership
from deployer.site.model.principal import Principal
from signer.errors import SignatureError
from signer.x509.ca_directory import read_authorities
from signer.x509.path_validation import CrlPolicy

REMEMBERED = timedelta(seconds=10)
"""How long the result for a valid chain is reused: verifying reads a thousand files of a grid's CAs. A revocation list,
or a change in vomsdir, takes effect that much later."""

MOST = 1000
"""Chains whose results are kept."""

log = logging.getLogger("partita.site")


@dataclass(frozen=True)
class GridTrust:
    """The trust by which people's certificates are verified.

    Attributes:
        authorities: the directory of CAs.
        servers: the trusted VOMS servers.
        targets: the host names of the service.
        crls: whether each CA must have a current revocation list.
    """

    authorities: Path
    servers: VomsDirectory
    targets: tuple[str, ...] = ()
    crls: CrlPolicy = "required"


def authenticate_chain(chain: Sequence[bytes], trust: GridTrust, now: datetime) -> Principal:
    """The principal of a chain of certificates.

    Args:
        chain: in DER, the one whose key was proved first.
        trust: by which it is verified.
        now: aware, UTC.

    Raises:
        NotAuthenticated: the chain, or its VOMS attributes, break a rule; names it.
        SiteUnavailable: the CAs cannot be read now.
    """
    try:
        authorities = read_authorities(trust.authorities)
    except SignatureError as exc:
        log.error("%s", exc)  # noqa: TRY400 - the sentence says it all
        raise SiteUnavailable("the site's directory of CAs cannot be read now") from exc
    holder = find_holder(chain, authorities, now, trust.crls)
    member: VomsMembership | None = None
    if holder.attributes is not None:
        member = read_membership(
            holder.attributes, holder.certificate, authorities, trust.servers, trust.targets, now, trust.crls
        )
    try:
        return Principal(
            issuer=holder.certificate.issuer,
            subject=holder.certificate.subject,
            vo=member.vo if member else "",
            groups=member.groups if member else (),
            means=LIMITED_MEANS if holder.limited else CERTIFICATE_MEANS,
        )
    except ValidationError as exc:
        raise NotAuthenticated("the names in the certificate are too long") from exc


class GridIdentities:
    """Authenticates chains, and reuses each result for ten seconds. Safe to use from several threads.

    Args:
        trust: by which chains are verified.
    """

    def __init__(self, trust: GridTrust) -> None:
        self._trust = trust
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[bytes, ...], tuple[datetime, Principal]] = OrderedDict()

    def authenticate(self, chain: Sequence[bytes], now: datetime) -> Principal:
        """As `authenticate_chain`; a refusal is never reused."""
        key = tuple(chain)
        with self._lock:
            known = self._known.get(key)
        if known is not None and timedelta(0) <= now - known[0] < REMEMBERED:
            return known[1]
        found = authenticate_chain(chain, self._trust, now)
        with self._lock:
            self._known[key] = (now, found)
            while len(self._known) > MOST:
                self._known.popitem(last=False)
        return found


def parse_pem_chain(data: bytes) -> list[bytes]:
    """The certificates (DER) of a proxy's file, in its order; Misused if there are none."""
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError as exc:
        raise Misused("the file contains no PEM certificate") from exc
    return [each.public_bytes(serialization.Encoding.DER) for each in found]
