"""Certification path validation: the chain from a signer's certificate to a CA that the site trusts, rule by rule. Pure.

These are the rules of grids beyond RFC 5280: signing policies, a current revocation list of every CA in the chain, no
weak keys or hashes, no proxies. The rules of RFC 5280 itself (path lengths, name constraints, critical extensions) are
checked by OpenSSL on the same chain (`signer.x509.cms_verifier`); both must agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from signer.errors import SignatureError
from signer.openpgp.status_lines import SKEW, next_instant
from signer.x509.ca_directory import TrustedCa, TrustStore
from signer.x509.certificates import STRONG_DIGESTS, Certificate, RevocationList

MAX_DEPTH = 6
"""CAs in a chain; grids have one to three."""

CrlPolicy = Literal["required", "if-present"]
"""Whether a CA without a current revocation list counts. A list that is present is applied in either case."""


@dataclass(frozen=True)
class CertificateChain:
    """A valid chain, the signer's certificate first.

    Attributes:
        certificates: the signer's, then the CAs', the last of which is the root.
        lists: one current list of each CA that has one.
        since: from when all certificates are valid.
        until: the next instant at which the passing of time may change the result.
    """

    certificates: tuple[Certificate, ...]
    lists: tuple[RevocationList, ...]
    since: datetime
    until: datetime


def find_chain(
    signer: Certificate, authorities: TrustStore, now: datetime, crls: CrlPolicy = "required"
) -> CertificateChain:
    """Find the chain of a signer's certificate at a time.

    Raises:
        SignatureError: there is no valid chain; the message says which certificate fails which rule.
    """
    for fault in signing_faults(signer):
        raise SignatureError(f"the certificate of {signer.subject} {fault}")
    chain: list[Certificate] = [signer]
    lists: list[RevocationList] = []
    while not (chain[-1].self_issued and len(chain) > 1):
        if len(chain) > MAX_DEPTH:
            raise SignatureError(f"the chain of {signer.subject} has more than {MAX_DEPTH} CAs")
        authority = _issuer(chain[-1], authorities, now)
        lists += _listed(authority, chain[-1], now, crls)
        chain.append(authority.certificate)
    for certificate in chain:
        if fault := _outside(certificate, now):
            raise SignatureError(f"the certificate of {certificate.subject} {fault}")
    validity = [instant for one in chain for instant in (one.not_before, one.not_after)]
    until = next_instant(
        now, [*validity, *(instant for one in lists for instant in (one.next_update, one.last_update))]
    )
    return CertificateChain(tuple(chain), tuple(lists), max(one.not_before for one in chain), until)


def signing_faults(signer: Certificate) -> Sequence[str]:
    """Return the reasons why a certificate cannot sign endorsements, whichever CA issued it."""
    faults = []
    if signer.authority or signer.self_issued:
        faults.append("belongs to a CA; endorse with a person's certificate")
    if signer.proxy:
        faults.append("is a proxy; endorse with the certificate itself")
    if signer.signs is None:
        faults.append("has no key usage")
    elif not signer.signs:
        faults.append("is not made for signing: its key usage has neither digitalSignature nor nonRepudiation")
    return faults


def _issuer(certificate: Certificate, authorities: TrustStore, now: datetime) -> TrustedCa:
    """Find the CA that issued a certificate and was allowed to; of a renewed CA with the same key, the valid one."""
    if certificate.weak:
        raise SignatureError(f"the certificate of {certificate.subject} has {certificate.weak}")
    if certificate.digest and certificate.digest not in STRONG_DIGESTS:
        raise SignatureError(
            f"the certificate of {certificate.subject} is signed with {certificate.digest}; that is too weak"
        )
    named = authorities.issuers(certificate)
    if not named:
        raise SignatureError(f"{certificate.issuer}, which issued {certificate.subject}, is not a trusted CA here")
    issued = [each for each in named if each.certificate.authority and each.certificate.issued(certificate)]
    if not issued:
        raise SignatureError(f"the certificate of {certificate.subject} was not signed by the CA {certificate.issuer}")
    authority = next((each for each in issued if not _outside(each.certificate, now)), issued[0])
    if authority.certificate.weak:
        raise SignatureError(f"the CA {certificate.issuer} has {authority.certificate.weak}")
    if authority.problem:
        raise SignatureError(f"the CA {certificate.issuer} cannot be used: {authority.problem}")
    if not authority.namespaces:
        raise SignatureError(f"the CA {certificate.issuer} has no signing policy here, so it may not sign any subject")
    if not authority.permits(certificate.subject):
        raise SignatureError(f"the signing policy of the CA {certificate.issuer} does not allow {certificate.subject}")
    return authority


def _listed(authority: TrustedCa, certificate: Certificate, now: datetime, crls: CrlPolicy) -> list[RevocationList]:
    """Return the CA's current list, after looking the certificate up in all of its lists."""
    name = authority.certificate.subject
    usable = [one for one in authority.lists if one.digest in {"", *STRONG_DIGESTS} and not one.partial]
    own = [one for one in usable if one.signed_by(authority.certificate)]
    for each in own:
        if (when := each.revocation_date(certificate.serial)) is not None:
            raise SignatureError(f"the certificate of {certificate.subject} was revoked on {when:%Y-%m-%d}")
    current = [one for one in own if one.last_update <= now + SKEW and one.next_update and now < one.next_update]
    if crls == "required" and not current:
        if not own:
            raise SignatureError(f"the CA {name} has no revocation list here; run fetch-crl")
        ended = max((one.next_update for one in own if one.next_update), default=None)
        fault = f"expired on {ended:%Y-%m-%d %H:%M} UTC" if ended and ended <= now else "is not current"
        raise SignatureError(f"the revocation list of the CA {name} {fault}; run fetch-crl")
    return current[:1]


def _outside(certificate: Certificate, now: datetime) -> str:
    if now < certificate.not_before:
        return f"is not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC"
    if now > certificate.not_after:
        return f"expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC"
    return ""
