"""Verifies detached CMS signatures: our rules choose the chain, OpenSSL verifies signature and chain, both must agree.

Nothing here decides about trust: signer.verification.trust decides which signatures count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from signer.errors import KeyUnusable, SignatureError
from signer.openpgp.status_lines import ALWAYS, SKEW, SignatureCheck, next_instant
from signer.x509.ca_directory import DEFAULT_DIRECTORY, directory_state, read_authorities
from signer.x509.certificates import Certificate, read_certificate
from signer.x509.cms_parser import SignedData, read_signed_data
from signer.x509.openssl import verify_cms
from signer.x509.path_validation import CertificateChain, CrlPolicy, find_chain

SCHEME = "x509"


@dataclass(frozen=True)
class X509Rules:
    """A site's CAs, and its rules for certificates.

    Attributes:
        directory: of CAs, in the layout of grids.
        crls: whether each CA must have a current revocation list.
    """

    directory: Path = DEFAULT_DIRECTORY
    crls: CrlPolicy = "required"

    def state(self) -> bytes:
        """Return bytes that identify these rules and the directory's present state."""
        return directory_state(self.directory) + self.crls.encode()


class CmsExaminer:
    """Examines signatures by the holders of the allowed certificates, and by no others.

    A certificate allows its holder, that is its subject and issuer: a renewed certificate counts as well.

    Raises:
        KeyUnusable: no certificate is given, or one of them is not a certificate.
    """

    def __init__(self, allowed: Sequence[bytes], rules: X509Rules) -> None:
        if not allowed:
            raise KeyUnusable("no certificate is allowed, so no signature can count")
        self._holders = {read_certificate(each).holder_id for each in allowed}
        self._rules = rules

    def examine(self, data: bytes, signature: bytes, now: datetime) -> tuple[SignatureCheck, ...]:
        """Examine the one signature of a CMS file over exactly these bytes.

        Raises:
            SignatureError: the file is not a detached CMS signature by one signer.
        """
        signed = read_signed_data(signature)
        if signed.signer.holder_id not in self._holders:
            reason = f"it is by {signed.signer.subject}, issued by {signed.signer.issuer}, not among the allowed ones"
            return (SignatureCheck(SCHEME, good=False, reason=reason, until=ALWAYS),)
        try:
            chain = find_chain(signed.signer, read_authorities(self._rules.directory), now, self._rules.crls)
            _same(verify_cms(data, signature, *_trusted(chain), now), signed.signer)
        except SignatureError as exc:
            return (SignatureCheck(SCHEME, good=False, reason=str(exc)),)
        return (_check(signed, chain, now),)


def _trusted(chain: CertificateChain) -> tuple[list[bytes], list[bytes]]:
    whole = len(chain.lists) == len(chain.certificates) - 1
    return [one.pem() for one in chain.certificates[1:]], [one.pem() for one in chain.lists] if whole else []


def _same(found: bytes, signer: Certificate) -> None:
    if read_certificate(found).der != signer.der:
        raise SignatureError("OpenSSL reports another certificate of the file as the signer's")


def _check(signed: SignedData, chain: CertificateChain, now: datetime) -> SignatureCheck:
    signer, reason = signed.signer, ""
    if signed.made is not None and signed.made > now + SKEW:
        reason = f"it is dated {signed.made:%Y-%m-%d %H:%M} UTC, in the future"
    elif signed.made is not None and not chain.since <= signed.made:
        reason = f"it was made before its certificates were valid, from {chain.since:%Y-%m-%d %H:%M} UTC on"
    until = next_instant(now, (chain.until, signed.made and signed.made - SKEW))
    serial, holder = f"{signer.serial:x}", signer.holder_id
    return SignatureCheck(
        SCHEME, not reason, signer.subject, serial, signed.made, reason, until, holder_id=holder, since=chain.since
    )
