"""Endorsements by certificate: real CAs, real CMS files, stock openssl beside us, and every way not to count."""

import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from signer.errors import KeyUnusable, SignatureError
from signer.verification.endorsements import endorse, verify_endorsements
from signer.verification.signature_cache import SignatureCache
from signer.verification.trust import Anchor, EndorsedSubject
from signer.x509.certificates import Credential
from signer.x509.cms_verifier import X509Rules
from tests.support.grid_ca import DAY, Authority, Grid, Holder, ec_key, name, utc_now
from tests.support.signer.certificate_endorsements import IMAGE, PEOPLE, ROLE, TITLE, World, changed, forged


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built once; tests that spoil a directory copy it."""
    grid = Grid(tmp_path_factory.mktemp("certificates"), utc_now())
    root = grid.root("/DC=org/DC=grid/CN=Root")
    people = grid.intermediate(root, "/DC=org/DC=grid/CN=People")
    grid.install(root, "/DC=org/DC=grid/*")
    grid.install(people, f"{PEOPLE}/*")
    return World(grid, root, people, grid.person(people, f"{PEOPLE}/CN=Ann"))


@pytest.mark.parametrize(
    "key",
    [None, rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())],
    ids=["P-256", "RSA 2048", "P-384"],
)
def test_what_a_certificate_endorses_verifies_here_and_with_stock_openssl(
    world: World, tmp_path: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None
) -> None:
    bob = world.grid.person(world.people, f"{PEOPLE}/CN=Bob", key)
    pair = endorse(bob.signer(world.grid.rules), IMAGE, TITLE, world.grid.now)
    check = world.check(pair, bob.anchor())
    assert check.counts, check.reason
    assert (check.fingerprint, check.scheme) == (f"{PEOPLE}/CN=Bob", "x509")
    assert check.signer == f"{bob.certificate.serial_number:x}"
    assert world.grid.stock_verifies(tmp_path, *pair)
    assert not world.grid.stock_verifies(tmp_path, pair[0] + b" ", pair[1])


@pytest.mark.parametrize(
    ("at", "options"),
    [
        ("cms", ("-binary",)),
        ("cms", ("-binary", "-noattr")),
        ("cms", ("-binary", "-md", "sha512")),
        ("smime", ("-binary",)),
    ],
)
def test_what_stock_openssl_signs_counts(world: World, tmp_path: Path, at: str, options: tuple[str, ...]) -> None:
    statement = world.stated()
    check = world.check((statement, world.ann.openssl(tmp_path, statement, *options, at=at)))
    assert check.counts, check.reason


def test_what_does_not_count(world: World, tmp_path: Path) -> None:
    table = forged(world, tmp_path)
    wrong = []
    for what, pair, reason in table:
        check = world.check(pair)
        if check.counts or not re.search(reason, check.reason):
            wrong.append((what, check.counts, check.reason))
    assert not wrong
    assert len(table) >= 30


def test_what_a_directory_of_cas_must_have(world: World, tmp_path: Path) -> None:
    pair = endorse(world.ann.signer(world.grid.rules), IMAGE, TITLE, world.grid.now)
    wrong = []
    for what, (grid, reason) in changed(world, tmp_path).items():
        check = world.check(pair, rules=grid.rules)
        if check.counts or not re.search(reason, check.reason):
            wrong.append((what, check.counts, check.reason))
    assert not wrong


def test_a_site_may_do_without_lists_but_not_without_what_they_say(world: World, tmp_path: Path) -> None:
    pair = endorse(world.ann.signer(world.grid.rules), IMAGE, TITLE, world.grid.now)
    spoiled = changed(world, tmp_path)
    lax = {what: X509Rules(grid.path, "if-present") for what, (grid, _) in spoiled.items()}
    assert world.check(pair, rules=lax["no lists"]).counts
    assert world.check(pair, rules=lax["an expired list"]).counts
    assert not world.check(pair, rules=lax["revoked"]).counts
    assert not world.check(pair, rules=lax["revoked, in a list that has expired"]).counts


def test_the_same_subject_by_two_cas_is_two_people(world: World, tmp_path: Path) -> None:
    grid = world.grid.copy(tmp_path / "ca")
    other = grid.root("/DC=org/DC=other/CN=Root")
    grid.install(other, f"{PEOPLE}/*")
    double = grid.person(other, f"{PEOPLE}/CN=Ann")
    pair = endorse(double.signer(grid.rules), IMAGE, TITLE, grid.now)
    atlas = double.anchor(vo="atlas")
    assert world.check(pair, double.anchor(), rules=grid.rules).counts
    assert not world.check(pair, world.ann.anchor(), rules=grid.rules).counts
    # Trusted for another VO only, while a namesake is trusted for this one.
    assert not world.check(pair, world.ann.anchor(), atlas, rules=grid.rules).counts
    assert world.check(pair, world.ann.anchor(), double.anchor(), rules=grid.rules).counts


def test_names_are_compared_as_bytes_not_as_texts(world: World) -> None:
    def named(kind: x509.name._ASN1Type) -> Holder:
        parts = list(world.ann.certificate.subject)
        parts[-1] = x509.NameAttribute(x509.NameOID.COMMON_NAME, "Ann", _type=kind)
        key, builder = ec_key(), x509.CertificateBuilder()
        made = builder.subject_name(x509.Name(parts)).issuer_name(world.people.certificate.subject)
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        made = made.not_valid_before(world.grid.now - DAY).not_valid_after(world.grid.now + DAY)
        usage = world.ann.certificate.extensions.get_extension_for_class(x509.KeyUsage)
        return Holder(made.add_extension(usage.value, critical=True).sign(world.people.key, hashes.SHA256()), key)

    printable, utf8 = named(x509.name._ASN1Type.PrintableString), named(x509.name._ASN1Type.UTF8String)
    pair = endorse(printable.signer(), IMAGE, TITLE, world.grid.now)
    assert world.check(pair, printable.anchor()).counts
    assert printable.anchor().fingerprint == utf8.anchor().fingerprint
    assert not world.check(pair, utf8.anchor()).counts


def test_a_renewed_certificate_stays_trusted(world: World) -> None:
    renewed = world.grid.person(world.people, f"{PEOPLE}/CN=Ann")
    pair = endorse(renewed.signer(world.grid.rules), IMAGE, TITLE, world.grid.now)
    assert world.check(pair, world.ann.anchor()).counts


def test_time_passes(world: World) -> None:
    pair = endorse(world.ann.signer(world.grid.rules), IMAGE, TITLE, world.grid.now, lifetime=3650 * DAY)
    memory = SignatureCache()
    assert world.check(pair, memory=memory).counts
    assert world.check(pair, memory=memory).counts
    assert memory.examined == 1
    later = world.check(pair, now=world.grid.now + 8 * DAY, memory=memory)
    assert "revocation list" in later.reason
    lax = X509Rules(world.grid.path, "if-present")
    assert "expired on" in world.check(pair, now=world.grid.now + 400 * DAY, rules=lax, memory=memory).reason
    assert world.check(pair, now=world.grid.now - DAY, memory=memory).reason.startswith("The signature does not count")


def test_what_was_remembered_is_forgotten_when_the_directory_changes(world: World, tmp_path: Path) -> None:
    grid, memory = world.grid.copy(tmp_path / "ca"), SignatureCache()
    pair = endorse(world.ann.signer(grid.rules), IMAGE, TITLE, grid.now)
    assert world.check(pair, rules=grid.rules, memory=memory).counts
    grid.publish_list(Authority(world.people.certificate, world.people.key, [world.ann.certificate.serial_number]))
    assert "revoked" in world.check(pair, rules=grid.rules, memory=memory).reason


def test_without_a_directory_no_certificate_counts(world: World) -> None:
    pair = endorse(world.ann.signer(), IMAGE, TITLE, world.grid.now)
    (check,) = verify_endorsements(EndorsedSubject(IMAGE, TITLE), [pair], [world.ann.anchor()], world.grid.now)
    assert not check.counts
    assert "o directory of CAs" in check.reason


def test_path_rules_of_openssl_hold_too(world: World, tmp_path: Path) -> None:
    """A CA that may have none below it, and one whose names are constrained (RFC 5280, section 4.2.1)."""
    grid = world.grid.copy(tmp_path / "ca")
    root = grid.root("/DC=org/DC=strict/CN=Root", length=0)
    below = grid.intermediate(root, "/DC=org/DC=strict/CN=Below")
    constraints = x509.NameConstraints([x509.DirectoryName(name("/DC=org/DC=other"))], None)
    narrow = grid.root("/DC=org/DC=narrow/CN=Root", extra=(constraints,))
    for authority in (root, below, narrow):
        grid.install(authority, "*")
    for authority, reason in ((below, "path length"), (narrow, "permitted subtree")):
        holder = grid.person(authority, f"{PEOPLE}/CN=Cam")
        check = world.check(endorse(holder.signer(), IMAGE, TITLE, grid.now), holder.anchor(), rules=grid.rules)
        assert reason in check.reason


def test_who_cannot_endorse_is_told_at_once(world: World) -> None:
    grid = world.grid
    expired = grid.person(world.people, f"{PEOPLE}/CN=Old", end=grid.now - DAY)
    with pytest.raises(KeyUnusable, match="is only valid from"):
        endorse(expired.signer(), IMAGE, TITLE, grid.now)
    with pytest.raises(KeyUnusable, match="belongs to a CA"):
        endorse(Holder(world.people.certificate, world.people.key).signer(), IMAGE, TITLE, grid.now)
    unknown = grid.person(grid.root("/O=x/CN=Root"), "/O=x/CN=Nobody")
    with pytest.raises(SignatureError, match="not a trusted CA here"):
        endorse(unknown.signer(grid.rules), IMAGE, TITLE, grid.now)
    with pytest.raises(KeyUnusable, match="does not belong"):
        Credential.read(world.ann.pem, expired.key_pem)
    with pytest.raises(KeyUnusable, match=r"not a readable X\.509 certificate"):
        Credential.read(b"none", world.ann.key_pem)
    with pytest.raises(KeyUnusable, match="not to /CN=Else"):
        Anchor("star", ROLE, "/CN=Else", world.ann.pem, "x509")


def test_a_ca_that_was_renewed_under_the_same_key_goes_on(world: World, tmp_path: Path) -> None:
    grid = world.grid.copy(tmp_path / "ca")
    subject = world.people.certificate.subject
    ended = grid._certificate(
        subject,
        world.root.certificate.subject,
        world.people.key.public_key(),
        world.root.key,
        authority=True,
        end=grid.now - DAY,
    )
    (hashed,) = {
        file.name.partition(".")[0] for file in grid.path.glob("*.0") if file.read_bytes() == world.people.pem()
    }
    (grid.path / f"{hashed}.0").write_bytes(ended.public_bytes(serialization.Encoding.PEM))
    pair = endorse(world.ann.signer(), IMAGE, TITLE, grid.now)
    assert "CN=People expired on" in world.check(pair, rules=grid.rules).reason
    (grid.path / f"{hashed}.1").write_bytes(world.people.pem())
    check = world.check(pair, rules=grid.rules)
    assert check.counts, check.reason
