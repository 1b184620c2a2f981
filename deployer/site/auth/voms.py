"""VOMS attribute certificates: a server's statement that a person belongs to a VO, with groups and roles.

The only door to the library that reads them. A VOMS server is trusted for a VO where the site's vomsdir has a file
VO/HOST.lsc with the names of its certificate and of the CAs above it, and that certificate's chain is valid by the rules of
grids. Sources: RFC 5755 (attribute certificates), RFC 3281; V. Ciaschini, "The VOMS Attribute Certificate Format" (OGF
GFD.182).
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from asn1crypto import cms, core
from asn1crypto import x509 as names
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from deployer.errors import NotAuthenticated
from signer.errors import KeyUnusable, SignatureError
from signer.runtime.files import read_file
from signer.x509.ca_directory import TrustStore
from signer.x509.certificates import Certificate, read_certificate
from signer.x509.der import Element, read_der
from signer.x509.path_validation import CertificateChain, CrlPolicy, find_chain

SKEW = timedelta(minutes=5)
"""How far a VOMS server's clock may be ahead of ours: the value of its own clients."""

MAX_LSC = 64 << 10
"""Bytes of a file in vomsdir."""

MAX_FQANS = 1000
"""Groups and roles of one certificate, as many as a principal may have."""

_ATTRIBUTES = "1.3.6.1.4.1.8005.100.100.4"
_CERTIFICATES = "1.3.6.1.4.1.8005.100.100.10"
_TAGS = "1.3.6.1.4.1.8005.100.100.11"
_TARGETS, _NO_REVOCATION, _AUTHORITY_KEY = "2.5.29.55", "2.5.29.56", "2.5.29.35"
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_URI_TAG, _DNS_TAG = 0x86, 0x82

_AUTHORITY = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})://([A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*):[0-9]{1,5}"
)
_FQAN = re.compile(
    r"((?:/[a-zA-Z0-9][a-zA-Z0-9_.-]*)+)(?:/Role=([a-zA-Z0-9][a-zA-Z0-9_.-]*))?(?:/Capability=([a-zA-Z0-9][a-zA-Z0-9_.-]*))?"
)
_SERVICE = re.compile(r"CN=([A-Za-z]+)\\/([A-Za-z0-9.-]+)(?=/|$)")
_NEXT = re.compile(r"-+\s*NEXT CHAIN\s*-+")


class _Certificates(core.SequenceOf):  # type: ignore[misc]
    _child_spec = names.Certificate


class _Chains(core.SequenceOf):  # type: ignore[misc]
    _child_spec = _Certificates


class _List(core.SequenceOf):  # type: ignore[misc]
    _child_spec = cms.AttributeCertificateV2


class _Lists(core.SequenceOf):  # type: ignore[misc]
    _child_spec = _List


@dataclass(frozen=True)
class VomsMembership:
    """A person's membership in a VO, as a VOMS server states it.

    Attributes:
        vo: the VO of the server.
        groups: and roles, the primary one first; /Role=NULL and /Capability=NULL are left out.
        until: the end of its validity.
    """

    vo: str
    groups: tuple[str, ...]
    until: datetime


@dataclass(frozen=True)
class _AttributeCertificate:
    """An attribute certificate as it was read, not verified."""

    signed: bytes
    signature: bytes
    digest: str
    scheme: str
    holder: tuple[bytes, int]
    issuer: bytes
    not_before: datetime
    not_after: datetime
    authority: str
    fqans: tuple[str, ...]
    server: bytes
    extensions: dict[str, tuple[bool, bytes]]


class VomsDirectory:
    """The directory of the VOMS servers that a site trusts, in grids' usual layout."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def chains(self, vo: str, host: str) -> Sequence[tuple[str, ...]]:
        """The trusted chains of names of a server, from its certificate upwards; none where it has no file.

        Args:
            vo, host: as in the attribute certificate; must be names, not paths.
        """
        path = self.path / vo / f"{host}.lsc"
        try:
            data = read_file(path, MAX_LSC)
        except OSError:
            return ()
        return parse_lsc(data.decode("utf-8", "replace")) if len(data) <= MAX_LSC else ()


def parse_lsc(text: str) -> tuple[tuple[str, ...], ...]:
    """The chains of names in an .lsc file: a subject and the names above it, one a line; chains are separated by a line
    NEXT CHAIN. A chain of one name is ignored: it would trust that name from any CA."""
    chains: list[list[str]] = [[]]
    for line in (line.strip() for line in text.splitlines()):
        if _NEXT.fullmatch(line):
            chains.append([])
        elif line and not line.startswith("#"):
            chains[-1].append(re.sub(r"/(E|Email)=", "/emailAddress=", line))
    return tuple(tuple(chain) for chain in chains if len(chain) > 1)


def read_membership(
    extension: bytes,
    holder: Certificate,
    authorities: TrustStore,
    servers: VomsDirectory,
    targets: Collection[str],
    now: datetime,
    crls: CrlPolicy = "required",
) -> VomsMembership:
    """The membership in a proxy's attribute certificates; the first of them counts, and others are ignored.

    Args:
        extension: the value of the proxy's VOMS extension.
        holder: the certificate that the proxy stands for.
        authorities: the CAs of the site.
        servers: the VOMS servers that it trusts.
        targets: the host names of this service.
        now: aware, UTC.
        crls: whether each CA must have a current revocation list.

    Raises:
        NotAuthenticated: the first certificate is not valid; says why. A bad one is not treated as none.
    """
    attributes = _read(extension)
    if attributes.holder != (holder.issuer_der, holder.serial):
        raise NotAuthenticated("the VOMS attributes belong to another certificate")
    if not attributes.not_before - SKEW <= now <= attributes.not_after:
        raise NotAuthenticated(
            f"the VOMS attributes are valid from {attributes.not_before} to {attributes.not_after} only"
        )
    _check_extensions(attributes, targets)
    match = _AUTHORITY.fullmatch(attributes.authority)
    if match is None:
        raise NotAuthenticated("the VOMS attributes do not name their VO and server")
    vo, host = match.groups()
    groups = _groups(attributes.fqans, vo)
    server = _server(attributes)
    try:
        chain = find_chain(server, authorities, now, crls)
    except SignatureError as exc:
        raise NotAuthenticated(f"the VOMS server's certificate is not valid: {exc}") from exc
    if not _trusted(chain, servers.chains(vo, host)):
        raise NotAuthenticated(
            f"{server.subject}, issued by {server.issuer}, is not listed in vomsdir as a VOMS server of {vo} on {host}"
        )
    _check_signature(attributes, server)
    return VomsMembership(vo, groups, attributes.not_after)


def _read(extension: bytes) -> _AttributeCertificate:
    try:
        return _parse(extension)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as exc:
        # The library has no error of its own: malformed bytes raise one of these.
        raise NotAuthenticated("the VOMS attributes cannot be parsed") from exc


def _parse(extension: bytes) -> _AttributeCertificate:
    """The first attribute certificate; ValueError, or what the library raises, where it is malformed."""
    certificate = _Lists.load(extension, strict=True)[0][0]
    info, algorithm = certificate["ac_info"], certificate["signature_algorithm"]
    held, issued_by, period = info["holder"], info["issuer"], info["att_cert_validity_period"]
    base = held["base_certificate_id"]
    (attribute,) = [each for each in info["attributes"] if each["type"].dotted == _ATTRIBUTES]
    (value,) = attribute["values"]
    syntax = cms.IetfAttrSyntax.load(value.dump(), strict=True)
    (authority,) = syntax["policy_authority"]
    extensions = {each["extn_id"].dotted: each for each in info["extensions"]}
    if (
        info["version"].native != "v2"
        or algorithm.dump() != info["signature"].dump()
        or held["entity_name"].native is not None
        or held["object_digest_info"].native is not None
        or authority.name != "uniform_resource_identifier"
        or {each.name for each in syntax["values"]} != {"octets"}
        or len(extensions) != len(info["extensions"])
    ):
        raise ValueError
    chain = _Chains.load(extensions[_CERTIFICATES]["extn_value"].contents, strict=True)
    return _AttributeCertificate(
        signed=info.dump(),
        signature=certificate["signature"].native,
        digest=algorithm.hash_algo,
        scheme=algorithm.signature_algo,
        holder=(_directory(base["issuer"]), base["serial"].native),
        issuer=_directory(issued_by.chosen["issuer_name"] if issued_by.name == "v2_form" else issued_by.chosen),
        not_before=period["not_before_time"].native,
        not_after=period["not_after_time"].native,
        authority=authority.chosen.contents.decode("ascii"),  # the library's text of it is unquoted and put in order
        fqans=tuple(each.native.decode("ascii") for each in syntax["values"]),
        server=chain[0][0].dump(),
        extensions={
            oid: (bool(each["critical"].native), each["extn_value"].contents) for oid, each in extensions.items()
        },
    )


def _directory(found: names.GeneralNames) -> bytes:
    """The one directory name of a list of names, as its bytes."""
    (name,) = found
    if name.name != "directory_name":
        raise ValueError
    return bytes(name.chosen.chosen.untag().dump())


def _check_extensions(attributes: _AttributeCertificate, targets: Collection[str]) -> None:
    for oid, (critical, _) in attributes.extensions.items():
        if critical and oid not in {_TARGETS, _CERTIFICATES, _TAGS, _NO_REVOCATION, _AUTHORITY_KEY}:
            raise NotAuthenticated(f"the VOMS attributes have an unknown critical extension {oid}")
    if _NO_REVOCATION not in attributes.extensions:
        raise NotAuthenticated("the VOMS attributes can be revoked, and their revocation cannot be checked")
    if _TARGETS in attributes.extensions:
        try:
            meant = set(_targets(read_der(attributes.extensions[_TARGETS][1])))
        except (SignatureError, UnicodeDecodeError) as exc:
            raise NotAuthenticated("the targets of the VOMS attributes cannot be read") from exc
        if not meant & {target.lower() for target in targets}:
            raise NotAuthenticated("the VOMS attributes are for another service")


def _targets(element: Element) -> list[str]:
    """The host names in a targets extension (RFC 5755, section 4.3.2), however deep VOMS nests them."""
    if element.tag in {_URI_TAG, _DNS_TAG}:
        text = element.content.decode("ascii").lower()
        return [re.sub(r"^[a-z][a-z0-9+.-]*://|(:[0-9]+)?(/.*)?$", "", text)]
    if not element.tag & 0x20:
        raise SignatureError("a target is not a name")
    return [name for child in element.children() for name in _targets(child)]


def _groups(fqans: Sequence[str], vo: str) -> tuple[str, ...]:
    if not 0 < len(fqans) <= MAX_FQANS:
        raise NotAuthenticated(f"the VOMS attributes have no group, or more than {MAX_FQANS}")
    found = []
    for fqan in fqans:
        match = _FQAN.fullmatch(fqan)
        if match is None or len(fqan) > 255:
            raise NotAuthenticated("the VOMS attributes name an invalid group")
        group, role, capability = match.groups()
        if group != f"/{vo}" and not group.startswith(f"/{vo}/"):
            raise NotAuthenticated(f"the VOMS attributes of {vo} name a group of another VO")
        if capability not in {None, "NULL"}:
            raise NotAuthenticated("the VOMS attributes have a capability; capabilities are not defined")
        found.append(group if role in {None, "NULL"} else f"{group}/Role={role}")
    return tuple(dict.fromkeys(found))


def _server(attributes: _AttributeCertificate) -> Certificate:
    try:
        server = read_certificate(attributes.server)
    except KeyUnusable as exc:
        raise NotAuthenticated("the VOMS server's certificate cannot be read") from exc
    if server.subject_der != attributes.issuer:
        raise NotAuthenticated("the VOMS attributes carry a certificate that is not their issuer's")
    return server


def _trusted(chain: CertificateChain, allowed: Sequence[tuple[str, ...]]) -> bool:
    """Whether the names of a chain are, from its first on, those of an allowed one."""
    # Host certificates of grids are called host/NAME; the value of a name can hold no further structure then.
    subjects = tuple(_SERVICE.sub(r"CN=\1/\2", each.subject) for each in chain.certificates)
    return any(subjects[: len(each)] == each for each in allowed)


def _check_signature(attributes: _AttributeCertificate, server: Certificate) -> None:
    digest, key = _HASHES.get(attributes.digest), x509.load_der_x509_certificate(server.der).public_key()
    if digest is None:
        raise NotAuthenticated("the VOMS attributes are signed with a weak or unknown hash")
    try:
        if isinstance(key, rsa.RSAPublicKey) and attributes.scheme == "rsassa_pkcs1v15":
            key.verify(attributes.signature, attributes.signed, padding.PKCS1v15(), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and attributes.scheme == "ecdsa":
            key.verify(attributes.signature, attributes.signed, ec.ECDSA(digest))
        else:
            raise NotAuthenticated("the VOMS attributes are signed with an unsupported scheme")
    except (InvalidSignature, UnsupportedAlgorithm) as exc:
        raise NotAuthenticated("the signature of the VOMS attributes was not made by the server") from exc
