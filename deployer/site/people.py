"""People by their X.509 certificates: the holder behind a chain, and what VOMS says of them, as one principal."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from deployer.errors import Misused, NotAuthenticated, SiteUnavailable
from deployer.site.principal import Principal
from deployer.site.proxies import find_holder
from deployer.site.rights import CERTIFICATE_MEANS, LIMITED_MEANS
from deployer.site.voms import Membership, VomsDirectory, read_membership
from signer.ca_directory import CaDirectory
from signer.chains import Crls
from signer.errors import SignatureError

log = logging.getLogger("partita.site")


@dataclass(frozen=True)
class GridTrust:
    """By what certificates of people are judged.

    Attributes:
        authorities: the directory of CAs.
        servers: the VOMS servers that are believed.
        targets: the host names of the service.
        crls: whether each CA must have a current revocation list.
    """

    authorities: CaDirectory
    servers: VomsDirectory
    targets: tuple[str, ...] = ()
    crls: Crls = "required"


def person(chain: Sequence[bytes], trust: GridTrust, now: datetime) -> Principal:
    """Whom a chain of certificates speaks for.

    Args:
        chain: in DER, the one whose key was proved first.
        trust: what it is judged by.
        now: aware, UTC.

    Raises:
        NotAuthenticated: it breaks a rule, or what VOMS says in it does; says which.
        SiteUnavailable: the CAs cannot be read now.
    """
    try:
        authorities = trust.authorities.authorities()
    except SignatureError as exc:
        log.error("%s", exc)  # noqa: TRY400 - the sentence says it all
        raise SiteUnavailable("the site's directory of CAs cannot be read now") from exc
    holder = find_holder(chain, authorities, now, trust.crls)
    member: Membership | None = None
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
        raise NotAuthenticated("the names in the certificate are longer than anything here may be") from exc


def pem_chain(data: bytes) -> list[bytes]:
    """The certificates (DER) of a proxy's file, in its order; Misused if there are none."""
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError as exc:
        raise Misused("there is no certificate (PEM) in the file") from exc
    return [each.public_bytes(serialization.Encoding.DER) for each in found]
