"""Proxy certificates: the holder behind a chain of them. Pure.

A proxy is a certificate that a person issues to a job of theirs, with a name one step below their own; proxies issue
proxies. Sources: RFC 3820, section 3 and 4; for limited proxies, Globus Toolkit's "Security: Proxy Certificates". The
holder's own chain is verified by the rules of grids (`signer.x509.path_validation`): every CA in it is one that the site itself installed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from deployer.errors import NotAuthenticated
from signer.errors import KeyUnusable, SignatureError
from signer.x509.ca_directory import TrustStore
from signer.x509.certificates import STRONG_DIGESTS, Certificate, read_certificate
from signer.x509.der import OID, SEQUENCE, SET, Element, read_der
from signer.x509.path_validation import CrlPolicy, find_chain

MAX_PROXIES = 8
"""Proxies below one certificate; a job that was handed on three times has four."""

ATTRIBUTES = x509.ObjectIdentifier("1.3.6.1.4.1.8005.100.100.5")
"""The extension with VOMS attribute certificates."""

_PROXY_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
_INHERIT_ALL, _INDEPENDENT = "1.3.6.1.5.5.7.21.1", "1.3.6.1.5.5.7.21.2"
_LIMITED = "1.3.6.1.4.1.3536.1.1.1.9"
_KNOWN = {_PROXY_INFO, ExtensionOID.KEY_USAGE, ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.EXTENDED_KEY_USAGE}
_COMMON_NAME = "2.5.4.3"


@dataclass(frozen=True)
class CertificateHolder:
    """The person behind a chain of certificates.

    Attributes:
        certificate: their own, issued by a CA.
        limited: whether the chain contains a limited proxy.
        attributes: the value of the VOMS extension in the proxy nearest to the job, or None where there is none.
    """

    certificate: Certificate
    limited: bool = False
    attributes: bytes | None = None


def find_holder(
    chain: Sequence[bytes], authorities: TrustStore, now: datetime, crls: CrlPolicy = "required"
) -> CertificateHolder:
    """The holder behind a chain.

    Args:
        chain: certificates in DER, the one whose key was proved first; those after the holder's are ignored.
        authorities: the CAs of the site.
        now: aware, UTC.
        crls: whether each CA must have a current revocation list.

    Raises:
        NotAuthenticated: the chain breaks a rule; names it.
    """
    proxies: list[Certificate] = []
    for der in chain:
        certificate = _read(der)
        if not certificate.proxy:
            break
        proxies.append(certificate)
        if len(proxies) > MAX_PROXIES:
            raise NotAuthenticated(f"the chain has more than {MAX_PROXIES} proxies")
    else:
        raise NotAuthenticated("the chain contains only proxy certificates")
    try:
        find_chain(certificate, authorities, now, crls)
    except SignatureError as exc:
        raise NotAuthenticated(str(exc)) from exc
    if proxies and not _may_sign(certificate):
        raise NotAuthenticated(f"the key usage of {certificate.subject} does not allow it to sign proxies")
    limited, found = False, None
    issuer = certificate
    # From the holder down, in the order of delegation.
    for below, proxy in zip(reversed(range(len(proxies))), reversed(proxies), strict=True):
        _check_proxy(proxy, issuer, now)
        extensions = _extensions(proxy)
        language = _check_info(extensions, below)
        limited = limited or language == _LIMITED
        carried = extensions.get(ATTRIBUTES)
        if isinstance(carried, x509.UnrecognizedExtension):
            found = carried.value
        issuer = proxy
    return CertificateHolder(certificate, limited, found)


def _read(der: bytes) -> Certificate:
    try:
        return read_certificate(der)
    except KeyUnusable as exc:
        raise NotAuthenticated("the chain contains an unreadable certificate") from exc


def _may_sign(holder: Certificate) -> bool:
    """Whether a holder's key may sign proxies (RFC 3820, section 3.1): that for non-repudiation alone may not."""
    for each in x509.load_der_x509_certificate(holder.der).extensions:
        if isinstance(each.value, x509.KeyUsage):
            return each.value.digital_signature
    return True


def _check_proxy(proxy: Certificate, issuer: Certificate, now: datetime) -> None:
    """Check one proxy and its issuer by RFC 3820."""
    name = f"the proxy {proxy.subject}"
    if not issuer.issued(proxy):
        raise NotAuthenticated(f"{name} was not issued by {issuer.subject}")
    if not _is_below(proxy, issuer):
        raise NotAuthenticated(f"the name of {name} is not its issuer's name plus one common name")
    if proxy.weak:
        raise NotAuthenticated(f"{name} has {proxy.weak}")
    if proxy.digest and proxy.digest not in STRONG_DIGESTS:
        raise NotAuthenticated(f"{name} is signed with {proxy.digest}, which is too weak")
    if not proxy.not_before <= now <= proxy.not_after:
        raise NotAuthenticated(f"{name} is valid from {proxy.not_before:%Y-%m-%d %H:%M} to {proxy.not_after:%H:%M} UTC")
    if proxy.authority:
        raise NotAuthenticated(f"{name} claims to be a CA")


def _extensions(proxy: Certificate) -> dict[x509.ObjectIdentifier, x509.ExtensionType]:
    """A proxy's extensions, checked by RFC 3820."""
    name = f"the proxy {proxy.subject}"
    found = x509.load_der_x509_certificate(proxy.der).extensions
    extensions: dict[x509.ObjectIdentifier, x509.ExtensionType] = {each.oid: each.value for each in found}
    for each in found:
        if each.critical and each.oid not in _KNOWN:
            raise NotAuthenticated(f"{name} has an unknown critical extension {each.oid.dotted_string}")
    if not found.get_extension_for_oid(_PROXY_INFO).critical:
        raise NotAuthenticated(f"{name} does not mark ProxyCertInfo as critical")
    usage = extensions.get(ExtensionOID.KEY_USAGE)
    if isinstance(usage, x509.KeyUsage) and (usage.key_cert_sign or not usage.digital_signature):
        raise NotAuthenticated(f"{name} has a key usage that proxies must not have")
    if {ExtensionOID.SUBJECT_ALTERNATIVE_NAME, ExtensionOID.ISSUER_ALTERNATIVE_NAME} & set(extensions):
        raise NotAuthenticated(f"{name} has an alternative name, which proxies must not have")
    return extensions


def _is_below(proxy: Certificate, issuer: Certificate) -> bool:
    """Whether its subject is the issuer's and exactly one more common name (RFC 3820, section 3.4)."""
    try:
        names, above = read_der(proxy.subject_der).children(), read_der(issuer.subject_der).children()
        if [each.whole for each in names[:-1]] != [each.whole for each in above]:
            return False
        attributes = names[-1].children()
        return names[-1].tag == SET and len(attributes) == 1 and attributes[0].children()[0].oid() == _COMMON_NAME
    except (SignatureError, IndexError):
        return False


def _check_info(extensions: dict[x509.ObjectIdentifier, x509.ExtensionType], below: int) -> str:
    """The policy language of a proxy with `below` proxies under it: ProxyCertInfo (RFC 3820, section 3.8)."""
    carried = extensions[_PROXY_INFO]
    malformed = NotAuthenticated("a proxy's ProxyCertInfo is not in the form of RFC 3820")
    if not isinstance(carried, x509.UnrecognizedExtension):
        raise malformed
    try:
        length, policy = _info(read_der(carried.value))
        parts = policy.children()
        language = parts[0].oid() if parts and parts[0].tag == OID else ""
    except (SignatureError, ValueError) as exc:
        raise malformed from exc
    if length is not None and (length < 0 or below > length):
        raise NotAuthenticated(f"a proxy allows {length} proxies below it, and there are {below}")
    if language == _INDEPENDENT:
        raise NotAuthenticated("an independent proxy inherits no rights from its issuer")
    if language not in {_INHERIT_ALL, _LIMITED}:
        raise NotAuthenticated("a proxy is restricted in an unknown policy language")
    if len(parts) != 1:
        raise malformed  # both languages come without a policy text (section 3.8.2)
    return language


def _info(info: Element) -> tuple[int | None, Element]:
    parts = info.children()
    if info.tag != SEQUENCE or len(parts) not in {1, 2} or parts[-1].tag != SEQUENCE:
        raise ValueError
    return (None if len(parts) == 1 else parts[0].integer()), parts[-1]
