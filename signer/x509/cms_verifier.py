"""Examining detached CMS signatures: our rules choose the chain, OpenSSL verifies signature and chain, both must agree.

Nothing here decides about trust: signer.verification.trust decides who counts.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType

from signer.errors import KeyUnusable, SignatureError
from signer.openpgp.status_lines import ALWAYS, SKEW, SignatureCheck
from signer.x509.ca_directory import DEFAULT_DIRECTORY, CaDirectory
from signer.x509.certificates import Certificate, read_certificate
from signer.x509.cms_parser import SignedData, read_signed_data
from signer.x509.openssl import verify_cms
from signer.x509.path_validation import CertificateChain, CrlPolicy, find_chain

SCHEME = "x509"


@dataclass(frozen=True)
class X509Rules:
    """By which CAs a site judges certificates.

    Attributes:
        directory: of CAs, as grids lay it out.
        crls: whether each CA must have a current revocation list.
    """

    directory: Path = DEFAULT_DIRECTORY
    crls: CrlPolicy = "required"
    _held: CaDirectory = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Open nothing yet: the directory may come and go."""
        object.__setattr__(self, "_held", CaDirectory(self.directory))

    @property
    def authorities(self) -> CaDirectory:
        """The directory."""
        return self._held

    def state(self) -> bytes:
        """What tells these rules, and the directory as it is, from others."""
        return self._held.state() + self.crls.encode()


class CmsExaminer(AbstractContextManager["CmsExaminer"]):
    """Examines signatures by holders of the certificates that are allowed, and of no others.

    A certificate allows its holder, that is its subject and issuer: renewed ones count as well.

    Raises:
        KeyUnusable: no certificate at all, or what was given as one is none.
    """

    def __init__(self, allowed: Sequence[bytes], rules: X509Rules) -> None:
        if not allowed:
            raise KeyUnusable("no certificate is allowed, so no signature can count")
        self._names = {read_certificate(each).names for each in allowed}
        self._rules = rules

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is kept."""

    def examine(self, data: bytes, signature: bytes, now: datetime) -> tuple[SignatureCheck, ...]:
        """The one signature of a CMS file over exactly these bytes.

        Raises:
            SignatureError: the file is no detached CMS signature by one signer.
        """
        signed = read_signed_data(signature)
        if signed.signer.names not in self._names:
            by = f"{signed.signer.subject}, issued by {signed.signer.issuer}"
            return (
                SignatureCheck(SCHEME, good=False, reason=f"it is by {by}, not among the allowed ones", until=ALWAYS),
            )
        try:
            chain = find_chain(signed.signer, self._rules.authorities.authorities(), now, self._rules.crls)
            _same(verify_cms(data, signature, *_trusted(chain), now), signed.signer)
        except SignatureError as exc:
            return (SignatureCheck(SCHEME, good=False, reason=str(exc)),)
        return (_check(signed, chain, now),)


def _trusted(chain: CertificateChain) -> tuple[list[bytes], list[bytes]]:
    whole = len(chain.lists) == len(chain.certificates) - 1
    return [one.pem() for one in chain.certificates[1:]], [one.pem() for one in chain.lists] if whole else []


def _same(found: bytes, signer: Certificate) -> None:
    if read_certificate(found).der != signer.der:
        raise SignatureError("OpenSSL takes another certificate of the file for the signer's")


def _check(signed: SignedData, chain: CertificateChain, now: datetime) -> SignatureCheck:
    signer, reason = signed.signer, ""
    if signed.made is not None and signed.made > now + SKEW:
        reason = f"it is dated {signed.made:%Y-%m-%d %H:%M} UTC, in the future"
    elif signed.made is not None and not chain.since <= signed.made:
        reason = f"it was made before its certificates were valid, from {chain.since:%Y-%m-%d %H:%M} UTC on"
    until = min(
        (turn for turn in (chain.until, signed.made and signed.made - SKEW) if turn and turn > now), default=ALWAYS
    )
    return SignatureCheck(
        SCHEME,
        not reason,
        signer.subject,
        f"{signer.serial:x}",
        signed.made,
        reason,
        until,
        names=signer.names,
        since=chain.since,
    )
