"""A grid in small for tests: CAs with signing policies and revocation lists, and people with certificates."""

import shutil
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from signer.verification.signers import CertificateSigner
from signer.verification.trust import Anchor
from signer.x509.certificates import Credential
from signer.x509.cms_verifier import X509Rules

DAY = timedelta(days=1)
OIDS = {
    "DC": NameOID.DOMAIN_COMPONENT,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
}
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def name(text: str) -> x509.Name:
    """The name that a text such as /DC=org/CN=Ann stands for."""
    parts = [part.partition("=") for part in text.split("/")[1:]]
    return x509.Name([x509.NameAttribute(OIDS[kind], value) for kind, _, value in parts])


@dataclass
class Authority:
    """A CA with its key."""

    certificate: x509.Certificate
    key: Private
    revoked: list[int] = field(default_factory=list)

    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass
class Holder:
    """Somebody with a certificate, in the files that grids give to people."""

    certificate: x509.Certificate
    key: Private

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key, without a passphrase."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def signer(self, rules: X509Rules | None = None) -> CertificateSigner:
        """Signs in this name."""
        return CertificateSigner(Credential.read(self.pem, self.key_pem), rules)

    def anchor(self, vo: str = "star", role: str = "image-administrator") -> Anchor:
        """Trust in this person."""
        return self.signer().anchor(vo, role)

    def openssl(self, where: Path, data: bytes, *options: str, at: str = "cms") -> bytes:
        """A signature by stock openssl, with options of its own."""
        (where / "c.pem").write_bytes(self.pem)
        (where / "k.pem").write_bytes(self.key_pem)
        (where / "d").write_bytes(data)
        command = ["openssl", at, "-sign", "-signer", "c.pem", "-inkey", "k.pem", "-in", "d", "-out", "s"]
        subprocess.run([*command, "-outform", "DER", *options], cwd=where, check=True, capture_output=True)
        return (where / "s").read_bytes()


def ec_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Grid:
    """A directory of CAs that is being built; `now` is when everything happens."""

    path: Path
    now: datetime

    @property
    def rules(self) -> X509Rules:
        """The rules of a site with this directory."""
        return X509Rules(self.path)

    def root(self, text: str, **changes: object) -> Authority:
        """A root CA, not yet in the directory."""
        key = ec_key()
        return Authority(
            self._certificate(name(text), name(text), key.public_key(), key, authority=True, **changes), key
        )

    def intermediate(self, parent: Authority, text: str, **changes: object) -> Authority:
        """A CA below another."""
        key = ec_key()
        subject = parent.certificate.subject
        return Authority(
            self._certificate(name(text), subject, key.public_key(), parent.key, authority=True, **changes), key
        )

    def person(self, parent: Authority, text: str, key: Private | None = None, **changes: object) -> Holder:
        """Somebody with a certificate by a CA."""
        held = ec_key() if key is None else key
        issuer = parent.certificate.subject
        return Holder(self._certificate(name(text), issuer, held.public_key(), parent.key, **changes), held)

    def install(self, authority: Authority, *subjects: str, crl: bool = True, policy: bool = True) -> str:
        """Put a CA into the directory as IGTF does; returns its hash."""
        hashed = self._openssl("x509", "-subject_hash", data=authority.pem())
        (self.path / f"{hashed}.0").write_bytes(authority.pem())
        if policy:
            dn = "".join(f"/{a.rfc4514_attribute_name}={a.value}" for a in authority.certificate.subject)
            patterns = " ".join(f'"{subject}"' for subject in subjects)
            (self.path / f"{hashed}.signing_policy").write_text(
                f"# made for tests\naccess_id_CA  X509  '{dn}'\npos_rights  globus  CA:sign\n"
                f"cond_subjects  globus  '{patterns}'\n"
            )
        if crl:
            self.publish_list(authority)
        return hashed

    def publish_list(self, authority: Authority, *, start: datetime | None = None, end: datetime | None = None) -> Path:
        """Write the CA's revocation list."""
        start, end = start or self.now - DAY, end or self.now + 7 * DAY
        builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
        builder = builder.last_update(start).next_update(end)
        for serial in authority.revoked:
            gone = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start).build()
            builder = builder.add_revoked_certificate(gone)
        made = builder.sign(authority.key, hashes.SHA256())
        hashed = self._openssl("x509", "-subject_hash", data=authority.pem())
        path = self.path / f"{hashed}.r0"
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        return path

    def copy(self, path: Path) -> "Grid":
        """The same directory elsewhere, to spoil."""
        shutil.copytree(self.path, path)
        return Grid(path, self.now)

    def stock_verifies(self, where: Path, data: bytes, signature: bytes) -> bool:
        """Whether `openssl cms -verify` takes the signature, with nothing of ours."""
        (where / "S").write_bytes(data)
        (where / "S.p7s").write_bytes(signature)
        command = ["openssl", "cms", "-verify", "-binary", "-content", "S", "-in", "S.p7s", "-inform", "DER"]
        command += ["-CApath", str(self.path), "-purpose", "any", "-crl_check_all", "-out", "out"]
        done = subprocess.run(command, cwd=where, capture_output=True, check=False)
        return done.returncode == 0 and (where / "out").read_bytes() == data

    def _openssl(self, *args: str, data: bytes) -> str:
        done = subprocess.run(["openssl", *args, "-noout"], input=data, capture_output=True, check=True)
        return done.stdout.decode().strip()

    def _certificate(
        self,
        subject: x509.Name,
        issuer: x509.Name,
        public: object,
        signing: Private,
        *,
        authority: bool = False,
        start: datetime | None = None,
        end: datetime | None = None,
        digest: hashes.HashAlgorithm | None = None,
        usage: tuple[str, ...] | None = None,
        length: int | None = None,
        extra: tuple[x509.ExtensionType, ...] = (),
    ) -> x509.Certificate:
        used = usage if usage is not None else ("key_cert_sign", "crl_sign") if authority else ("digital_signature",)
        kinds = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        kinds += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(start or self.now - 30 * DAY)
            .not_valid_after(end or self.now + 365 * DAY)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=length), critical=True)
        )
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)  # type: ignore[arg-type]
        builder = builder.add_extension(identifier, critical=False)
        if used:
            builder = builder.add_extension(x509.KeyUsage(**{kind: kind in used for kind in kinds}), critical=True)
        for extension in extra:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(signing, digest or hashes.SHA256())


def utc_now() -> datetime:
    """Whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)
