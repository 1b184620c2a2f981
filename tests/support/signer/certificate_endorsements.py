"""Endorsements by certificate: genuine, forged and altered."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7

from signer.statements.endorsement import endorsement_statement
from signer.verification.endorsements import verify_endorsements
from signer.verification.signature_cache import SignatureCache
from signer.verification.trust import Anchor, EndorsedSubject, EndorsementCheck
from signer.x509.cms_verifier import X509Rules
from tests.support.grid_ca import DAY, Authority, Grid, Holder, ec_key

IMAGE, TITLE = "sha256:" + "ab" * 32, "star/worker@1.0"
ROLE = "image-administrator"
PEOPLE = "/DC=org/DC=grid/OU=people"
DETACHED = (pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary)


@dataclass
class World:
    """A grid with a root, a CA for people below it, and Ann."""

    grid: Grid
    root: Authority
    people: Authority
    ann: Holder

    def stated(self, subject: str = f"{PEOPLE}/CN=Ann", **changes: object) -> bytes:
        """A statement in somebody's name, unsigned."""
        values: dict[str, object] = {
            "subject": IMAGE,
            "title": TITLE,
            "endorser": f"x509:{subject}",
            "role": ROLE,
            "issued": self.grid.now,
            "expires": self.grid.now + 30 * DAY,
        }
        return endorsement_statement(**(values | changes))  # type: ignore[arg-type]

    def check(
        self,
        pair: tuple[bytes, bytes],
        *anchors: Anchor,
        rules: X509Rules | None = None,
        now: datetime | None = None,
        memory: SignatureCache | None = None,
    ) -> EndorsementCheck:
        """What the verifier says, by default with Ann trusted and the directory as it is."""
        trusted = anchors or (self.ann.anchor(),)
        (check,) = verify_endorsements(
            EndorsedSubject(IMAGE, TITLE),
            [pair],
            trusted,
            now or self.grid.now,
            x509=rules or self.grid.rules,
            cache=memory,
        )
        return check


def cms(holder: Holder, data: bytes, *options: pkcs7.PKCS7Options, digest: hashes.HashAlgorithm | None = None) -> bytes:
    """A CMS file by the library, with options of its own."""
    builder = pkcs7.PKCS7SignatureBuilder().set_data(data)
    builder = builder.add_signer(holder.certificate, holder.key, digest or hashes.SHA256())  # type: ignore[arg-type]
    return builder.sign(serialization.Encoding.DER, list(options))


def forged(world: World, where: Path) -> list[tuple[str, tuple[bytes, bytes], str]]:
    """(what, pair, why it does not count), with Ann trusted."""
    ours = world.stated()
    grid = world.grid

    def signed(subject: str = f"{PEOPLE}/CN=Ann", **changes: object) -> tuple[bytes, bytes]:
        holder = grid.person(world.people, subject, **changes)  # type: ignore[arg-type]
        return world.stated(), cms(holder, world.stated(), *DETACHED)

    other = grid.root("/DC=org/DC=evil/CN=Root")
    forger = grid.root("/DC=org/DC=grid/CN=People")
    bob = grid.person(world.people, f"{PEOPLE}/CN=Bob")
    evil = grid.person(other, f"{PEOPLE}/CN=Ann")
    swapped = grid.person(world.people, "/DC=grid/DC=org/OU=people/CN=Ann")
    stranger = grid.person(forger, f"{PEOPLE}/CN=Ann")
    two = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(ours)
        .add_signer(world.ann.certificate, world.ann.key, hashes.SHA256())
        .add_signer(bob.certificate, bob.key, hashes.SHA256())
        .sign(serialization.Encoding.DER, list(DETACHED))
    )
    good = cms(world.ann, ours, *DETACHED)
    key = rsa.generate_private_key(65537, 2048)
    pss = grid.person(world.people, f"{PEOPLE}/CN=Ann", key)
    probabilistic = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(ours)
        .add_signer(pss.certificate, key, hashes.SHA256(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA256()), 32))
        .sign(serialization.Encoding.DER, list(DETACHED))
    )
    proxy = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex("300c300a06082b06010505071501")
    )
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the weak key that must be refused
    return [
        ("by a CA that is not listed", (ours, cms(evil, ours, *DETACHED)), "not among the allowed ones"),
        ("by a CA that only calls itself as ours", (ours, cms(stranger, ours, *DETACHED)), "was not signed by the CA"),
        ("by Bob in Ann's name", (ours, cms(bob, ours, *DETACHED)), "CN=Bob.*not among the allowed ones"),
        ("subject in another order", (ours, cms(swapped, ours, *DETACHED)), "not among the allowed ones"),
        ("other content", (world.stated(comment="other"), good), "(digest|content) "),
        ("expired", signed(end=grid.now - DAY), "expired on"),
        ("not yet valid", signed(start=grid.now + DAY), "is not valid before"),
        ("not for signing", signed(usage=("key_encipherment",)), "not made for signing"),
        ("no key usage", signed(usage=()), "has no key usage"),
        ("a CA's own certificate", signed(authority=True), "belongs to a CA"),
        ("a proxy", signed(extra=(proxy,)), "is a proxy"),
        ("an unknown critical extension", signed(extra=(odd,)), "unhandled critical extension"),
        ("an RSA key of 1024 bits", signed(key=short), "1024 bits"),
        ("a curve that nobody uses", signed(key=ec.generate_private_key(ec.SECP256K1())), "curve secp256k1"),
        (
            "hashed with SHA-224",
            (ours, cms(world.ann, ours, *DETACHED, digest=hashes.SHA224())),
            "weak or unknown hash",
        ),
        ("hashed with SHA-1", (ours, world.ann.openssl(where, ours, "-binary", "-md", "sha1")), "weak or unknown hash"),
        ("signed with PSS", (ours, probabilistic), "algorithm that does not count"),
        ("two signers", (ours, two), "has 2 signers"),
        ("embedded", (ours, cms(world.ann, ours, pkcs7.PKCS7Options.Binary)), "only a detached signature counts"),
        ("named by key", (ours, world.ann.openssl(where, ours, "-binary", "-keyid")), "sign without -keyid"),
        (
            "without its certificate",
            (ours, cms(world.ann, ours, *DETACHED, pkcs7.PKCS7Options.NoCerts)),
            "no certificate",
        ),
        ("text mode", (ours, world.ann.openssl(where, ours, "-text")), "OpenSSL refuses it|digest"),
        (
            "streamed BER",
            (ours, world.ann.openssl(where, ours, "-binary", "-stream", "-indef")),
            "not a CMS file in DER",
        ),
        ("with bytes behind it", (ours, good + b"\0\0"), "trailing bytes|not a CMS file"),
        ("cut short", (ours, good[:-1]), "not a CMS file in DER"),
        ("one bit wrong", (ours, good[:-1] + bytes([good[-1] ^ 1])), "OpenSSL refuses it"),
        ("empty", (ours, b""), "signature is empty"),
        ("oversized", (ours, b"0" * 70000), "more than the 65536 allowed"),
        ("PEM", (ours, b"-----BEGIN CMS-----\n"), "not a CMS file in DER"),
        (
            "issued before its certificate",
            (early := world.stated(issued=grid.now - 60 * DAY), cms(world.ann, early, *DETACHED)),
            "issued before its endorser's certificates",
        ),
        ("another kind of signature", (ours, b"\x88\x75\x04\x00\x16\x08"), "not a CMS file in DER"),
    ]


def changed(world: World, path: Path) -> dict[str, tuple[Grid, str]]:
    """Directories with something wrong: what, the directory, why Ann's endorsement no longer counts."""
    found: dict[str, tuple[Grid, str]] = {}

    def spoil(what: str, reason: str, change: Callable[[Grid], object]) -> None:
        grid = world.grid.copy(path / str(len(found)))
        change(grid)
        found[what] = (grid, reason)

    def files(grid: Grid, suffix: str) -> list[Path]:
        return sorted(grid.path.glob(f"*.{suffix}"))

    def revoke(grid: Grid, *, end: timedelta = 7 * DAY) -> None:
        authority = Authority(world.people.certificate, world.people.key, [world.ann.certificate.serial_number])
        grid.publish_list(authority, start=grid.now - 9 * DAY, end=grid.now + end)

    def revoke_ca(grid: Grid) -> None:
        grid.publish_list(Authority(world.root.certificate, world.root.key, [world.people.certificate.serial_number]))

    def forge_list(grid: Grid) -> None:
        grid.publish_list(Authority(world.people.certificate, ec_key()))

    spoil("no CA at all", "not a trusted CA here", lambda g: [f.unlink() for f in files(g, "0")])
    spoil("no lists", "has no revocation list here; run fetch-crl", lambda g: [f.unlink() for f in files(g, "r0")])
    spoil("no signing policies", "no signing policy", lambda g: [f.unlink() for f in files(g, "signing_policy")])
    spoil("revoked", "was revoked on", revoke)
    spoil("revoked, in a list that has expired", "was revoked on", lambda g: revoke(g, end=-DAY))
    spoil("its CA revoked", "CN=People was revoked on", revoke_ca)
    spoil("a list by somebody else", "has no revocation list here", forge_list)
    spoil(
        "an expired list",
        "revocation list of the CA .*CN=People expired on",
        lambda g: g.publish_list(world.people, start=g.now - 9 * DAY, end=g.now - DAY),
    )
    spoil(
        "a list from the future",
        "is not current",
        lambda g: g.publish_list(world.people, start=g.now + DAY, end=g.now + 2 * DAY),
    )
    spoil("outside its namespace", "does not allow", lambda g: g.install(world.people, "/DC=org/DC=grid/OU=hosts/*"))
    spoil("its CA outside the root's", "does not allow", lambda g: g.install(world.root, f"{PEOPLE}/*"))
    spoil("no root", "not a trusted CA here", lambda g: (g.path / f"{g.install(world.root, '*')}.0").unlink())
    spoil(
        "a policy that is not understood",
        "line 1: not understood",
        lambda g: [f.write_text("allow everybody\n" * 2) for f in files(g, "signing_policy")],
    )
    spoil(
        "a list that is none",
        "not a readable revocation list",
        lambda g: [f.write_text("none") for f in files(g, "r0")],
    )
    spoil("no directory", "cannot be read: No such file", lambda g: shutil.rmtree(g.path))
    return found
