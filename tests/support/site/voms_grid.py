"""A grid with a VOMS server for tests: people, proxies made by `voms-proxy-fake`, and attribute certificates to spoil."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from asn1crypto import algos, cms, core
from asn1crypto import x509 as names
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from signer.x509.ca_directory import TrustStore, read_authorities
from signer.x509.certificates import Certificate, read_certificate
from tests.support.grid_ca import DAY, Authority, Grid, Holder, Private, ec_key, name

HOST = "voms.example.org"
URI = f"star://{HOST}:15000"
SERVER = f"/DC=org/DC=grid/OU=hosts/CN={HOST}"
ROOT = "/DC=org/DC=grid/CN=Root"
ANN = "/DC=org/DC=grid/OU=people/CN=Ann"
FQANS = ("/star/Role=VO-Admin/Capability=NULL", "/star/Role=NULL/Capability=NULL", "/star/production")

ATTRIBUTES = x509.ObjectIdentifier("1.3.6.1.4.1.8005.100.100.5")
PROXY_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
INHERIT_ALL, INDEPENDENT = "1.3.6.1.5.5.7.21.1", "1.3.6.1.5.5.7.21.2"
LIMITED = "1.3.6.1.4.1.3536.1.1.1.9"


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One of some keys that are made once; the stock tool makes RSA only."""
    return rsa.generate_private_key(65537, bits)


def der(certificate: x509.Certificate) -> bytes:
    """A certificate's bytes."""
    return certificate.public_bytes(serialization.Encoding.DER)


@dataclass
class GridWorld:
    """The grid: a CA, Ann, a VOMS server of star, and the site's directories.

    Attributes:
        place: `ca` and `vomsdir` are in it.
        grid: builds certificates.
    """

    place: Path
    grid: Grid
    root: Authority
    ann: Holder
    server: Holder
    now: datetime

    @classmethod
    def make(cls, place: Path, now: datetime) -> "GridWorld":
        """Build it."""
        (place / "ca").mkdir(parents=True)
        grid = Grid(place / "ca", now)
        key = rsa_key(0)
        named = name(ROOT)
        root = Authority(grid._certificate(named, named, key.public_key(), key, authority=True), key)
        grid.install(root, "/DC=org/DC=grid/*")
        ann, server = grid.person(root, ANN, rsa_key(1)), grid.person(root, SERVER, rsa_key(2))
        world = cls(place, grid, root, ann, server, now)
        world.believe(SERVER, ROOT)
        return world

    @property
    def authorities(self) -> TrustStore:
        """The CAs as they are now."""
        return read_authorities(self.grid.path)

    @property
    def vomsdir(self) -> Path:
        """The directory of VOMS servers."""
        return self.place / "vomsdir"

    def believe(self, *lines: str, vo: str = "star", host: str = HOST) -> None:
        """Write an .lsc file."""
        (self.vomsdir / vo).mkdir(parents=True, exist_ok=True)
        (self.vomsdir / vo / f"{host}.lsc").write_text("\n".join(lines) + "\n")

    def stock(self, *options: str, fqans: Sequence[str] = FQANS, holder: Holder | None = None) -> bytes:
        """A proxy made by voms-proxy-fake: PEM, with its key, for `openssl s_client` and the like."""
        held = holder or self.ann
        home = self.place / "stock"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        for stem, each in (("u", held), ("h", self.server)):
            (home / f"{stem}.pem").write_bytes(each.pem)
            key = each.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
            (home / f"{stem}.key").write_bytes(key)
            (home / f"{stem}.key").chmod(0o600)
        command = ["voms-proxy-fake", "-q", "-newformat", "-bits", "2048", "-cert", "u.pem", "-key", "u.key"]
        command += ["-certdir", str(self.grid.path), "-hostcert", "h.pem", "-hostkey", "h.key", "-voms", "star"]
        command += ["-uri", f"{HOST}:15000", "-out", "p.pem"]
        command += [part for fqan in fqans for part in ("-fqan", fqan)]
        command += list(options) or ["-rfc"]
        places = {"X509_CERT_DIR": str(self.grid.path), "X509_VOMS_DIR": str(self.vomsdir), "HOME": str(home)}
        subprocess.run(command, cwd=home, env=os.environ | places, check=True, capture_output=True, timeout=120)
        return (home / "p.pem").read_bytes()

    def chain(self, pem: bytes) -> list[bytes]:
        """The certificates of a proxy's file, the proxy first."""
        return [der(each) for each in x509.load_pem_x509_certificates(pem)]

    def proxy(self, parent: Holder | None = None, **changes: Any) -> Holder:
        """A proxy below somebody's certificate, or below another proxy; see `make_proxy`."""
        return make_proxy(parent or self.ann, self.now, **changes)

    def attributes(self, **changes: Any) -> bytes:
        """The VOMS extension as the server would write it for Ann; `changes` are of `Ac`."""
        return Ac(self.ann.certificate, self.server, self.now, **changes).extension()


def make_proxy(
    parent: Holder,
    now: datetime,
    *,
    language: str = INHERIT_ALL,
    length: int | None = None,
    subject: x509.Name | None = None,
    common: str = "1234",
    start: timedelta = -DAY,
    end: timedelta = DAY,
    info: bytes | None = None,
    critical: bool = True,
    attributes: bytes | None = None,
    usage: str | None = "digital_signature",
    authority: bool = False,
    extra: Sequence[tuple[x509.ExtensionType, bool]] = (),
    key: Private | None = None,
    signed_by: Private | None = None,
    digest: hashes.HashAlgorithm | None = None,
) -> Holder:
    """A proxy as RFC 3820 has it, with whatever should be wrong about it."""
    held = key or ec_key()
    above = parent.certificate.subject
    subject = subject or x509.Name([*above.rdns, *name(f"/CN={common}").rdns])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(held.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
    )
    value = proxy_info(language, length) if info is None else info
    builder = builder.add_extension(x509.UnrecognizedExtension(PROXY_INFO, value), critical=critical)
    if attributes is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(ATTRIBUTES, attributes), critical=False)
    if usage is not None:
        kinds = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        kinds += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
        used = usage.split()
        builder = builder.add_extension(x509.KeyUsage(**{kind: kind in used for kind in kinds}), critical=True)
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    for extension, matters in extra:
        builder = builder.add_extension(extension, critical=matters)
    return Holder(builder.sign(signed_by or parent.key, digest or hashes.SHA256()), held)


def proxy_info(language: str, length: int | None = None, policy: bytes | None = None) -> bytes:
    """ProxyCertInfo in DER."""
    parts = core.ObjectIdentifier(language).dump() + (b"" if policy is None else core.OctetString(policy).dump())
    inner = (b"" if length is None else core.Integer(length).dump()) + _wrapped(0x30, parts)
    return _wrapped(0x30, inner)


def _wrapped(tag: int, content: bytes) -> bytes:
    size = len(content)
    head = bytes([size]) if size < 0x80 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + head + content


def target(*hosts: str) -> bytes:
    """A targets extension as VOMS writes it: names in the form of URIs."""
    inner = b"".join(_wrapped(0x30, _wrapped(0xA0, _wrapped(0x86, host.encode()))) for host in hosts)
    return _wrapped(0x30, inner)


@dataclass
class Ac:
    """An attribute certificate as the server of a VO would make it, with whatever should be wrong about it."""

    holder: x509.Certificate
    server: Holder
    now: datetime
    uri: str = URI
    fqans: Sequence[bytes] = tuple(fqan.encode() for fqan in FQANS)
    start: timedelta = timedelta(minutes=-1)
    end: timedelta = timedelta(hours=12)
    serial: int | None = None
    holder_issuer: x509.Name | None = None
    holder_names: list[names.GeneralName] | None = None
    issuer: x509.Name | None = None
    signed_by: Private | None = None
    digest: str = "sha256"
    shown: bytes | None = None
    version: str = "v2"
    extensions: dict[str, tuple[bool, bytes]] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    twice: str = ""
    kind: str = "octets"
    change: Callable[[bytes], bytes] = bytes

    def extension(self) -> bytes:
        """The value of a proxy's extension with this one certificate."""
        return _wrapped(0x30, _wrapped(0x30, self.change(self.made())))

    def made(self) -> bytes:
        """The certificate in DER."""
        info = self._info()
        signing = self.signed_by or self.server.key
        signed, digest = info.dump(), {"sha1": hashes.SHA1(), "sha256": hashes.SHA256()}[self.digest]  # noqa: S303 - to be refused
        if isinstance(signing, rsa.RSAPrivateKey):
            signature = signing.sign(signed, padding.PKCS1v15(), digest)
        else:
            signature = signing.sign(signed, ec.ECDSA(digest))
        certificate = cms.AttributeCertificateV2(
            {"ac_info": info, "signature_algorithm": self._algorithm(), "signature": signature}
        )
        return bytes(certificate.dump())

    def _algorithm(self) -> algos.SignedDigestAlgorithm:
        kind = "rsa" if isinstance(self.signed_by or self.server.key, rsa.RSAPrivateKey) else "ecdsa"
        return algos.SignedDigestAlgorithm({"algorithm": f"{self.digest}_{kind}"})

    def _info(self) -> cms.AttributeCertificateInfoV2:
        shown = self.shown if self.shown is not None else der(self.server.certificate)
        extensions = {
            "1.3.6.1.4.1.8005.100.100.10": (False, _wrapped(0x30, _wrapped(0x30, shown))),
            "2.5.29.56": (False, core.Null().dump()),
            "2.5.29.35": (False, names.AuthorityKeyIdentifier({"key_identifier": b"\0" * 20}).dump()),
        } | self.extensions
        listed = [(oid, each) for oid, each in extensions.items() if oid not in self.without]
        listed += [(self.twice, extensions[self.twice])] if self.twice else []
        syntax = cms.IetfAttrSyntax(
            {
                "policy_authority": [names.GeneralName.load(_wrapped(0x86, self.uri.encode()))],
                "values": [
                    cms.IetfAttrValue(self.kind, fqan if self.kind == "octets" else fqan.decode())
                    for fqan in self.fqans
                ],
            }
        )
        attribute = cms.AttCertAttribute({"type": "1.3.6.1.4.1.8005.100.100.4", "values": [syntax]})
        period = {"not_before_time": self.now + self.start, "not_after_time": self.now + self.end}
        return cms.AttributeCertificateInfoV2(
            {
                "version": self.version,
                "holder": {
                    "base_certificate_id": {
                        "issuer": self.holder_names or _general(self.holder_issuer or self.holder.issuer),
                        "serial": self.serial or self.holder.serial_number,
                    }
                },
                "issuer": cms.AttCertIssuer(
                    "v2_form", {"issuer_name": _general(self.issuer or self.server.certificate.subject)}
                ),
                "signature": self._algorithm(),
                "serial_number": 7,
                "att_cert_validity_period": cms.AttCertValidityPeriod(period),
                "attributes": [attribute],
                "extensions": [
                    {"extn_id": oid, "critical": critical, "extn_value": core.ParsableOctetString(value)}
                    for oid, (critical, value) in listed
                ],
            }
        )


def _general(text: x509.Name) -> list[names.GeneralName]:
    return [names.GeneralName("directory_name", names.Name.load(text.public_bytes()))]


def read(holder: Holder) -> Certificate:
    """A holder's certificate as the rules see it."""
    return read_certificate(der(holder.certificate))


def other(world: GridWorld, text: str = "/DC=org/DC=grid/OU=people/CN=Bob", **changes: Any) -> Holder:
    """Somebody else of the same CA."""
    return world.grid.person(world.root, text, rsa_key(3), **changes)
