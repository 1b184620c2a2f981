"""The attack table of docs/trust-model.md: one test for each of its rows, in its order and under its name."""

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from catalog.errors import CatalogError, Equivocation, Stale, Unverified
from catalog.hepix.image_list import ImageList, ListedImage, NamedEndorser, write_list
from catalog.hepix.importer import ImportRequest, open_list
from catalog.hepix.subscriptions import ListEndorser, Subscriptions
from catalog.image.address import Address
from catalog.image.manifest import Manifest, Needs
from catalog.image.reference import Reference
from deployer.errors import PolicyUnusable, UserDataRefused
from deployer.machine.user_data import check_user_data
from deployer.policy.decision import Request
from deployer.policy.model import Policy
from deployer.policy.store import PolicyStore
from signer.errors import DocumentError
from signer.openpgp.keyring import Keyring
from signer.openpgp.verifier import examine
from signer.statements.revocation import RevokedObject
from signer.verification.endorsements import endorse, verify_endorsements
from signer.verification.revocations import revoke
from signer.verification.signers import KeySigner
from signer.verification.smime import sign_message
from signer.verification.trust import EndorsedSubject, EndorsementCheck
from stager.cache.cache import Cache
from stager.errors import ContentCorrupt, NotCached
from stager.staging import Stager
from tests.catalog.client import test_trusted as lies
from tests.signer.openpgp import test_verifier as signatures
from tests.support import factories
from tests.support.catalog.fake_tuf_repository import Repository
from tests.support.grid_ca import DAY, Grid, Holder, utc_now
from tests.support.node.policy_values import decide
from tests.support.openpgp_people import IMAGE, ROLE, TITLE, People
from tests.support.stager.caches import PACE, in_memory
from tests.support.stager.fakes import MIB, Clock

TABLE = Path(__file__).parents[2] / "docs" / "trust-model.md"
OTHER = "sha256:" + "cd" * 32
ORDER = Request.supposed(Needs(memory=128 * MIB, cores=1), lifetime=60)


@dataclass
class Scene:
    """Where an attack takes place."""

    people: People
    root: Path

    def repository(self) -> Repository:
        """A catalog's freshness repository with star/worker@1.0."""
        made = Repository()
        made.image()
        return made

    def lied_to(self, lie: Callable[[Repository], None], expected: type[CatalogError]) -> None:
        """A node that knew what was current is told a lie, and refuses it as what it is."""
        repository = self.repository()
        with repository.catalog(self.root / "node") as node:
            before = node.resolve(Reference.parse("star/worker"))
            lie(repository)
            with pytest.raises(CatalogError) as refused:
                node.resolve(Reference.parse("star/worker"))
            assert type(refused.value) is expected, refused.value
            assert before

    def weigh(self, pair: tuple[bytes, bytes], *trusted: str, image: str = IMAGE) -> EndorsementCheck:
        """What an endorsement is worth to a site that trusts these people."""
        anchors = [self.people.anchor(name) for name in trusted or ("ann", "bob")]
        (check,) = verify_endorsements(EndorsedSubject(image), [pair], anchors, self.people.now)
        return check

    def policy(self, threshold: int, *trusted: str) -> Policy:
        """A site's policy: these people, so many of them, and room enough."""
        keys = [
            (self.people.fingerprints[name], self.people.gpg("--armor", "--export", self.people.fingerprints[name]))
            for name in trusted
        ]
        anchors = "".join(
            f"[[anchor]]\nvo = 'star'\nrole = '{ROLE}'\nfingerprint = '{fingerprint}'\nkey = '''\n{key.decode()}'''\n"
            for fingerprint, key in keys
        )
        rules = f"[endorsements]\nthreshold = {threshold}\n[vos]\nallow = ['star']\n[images]\nallow = ['star/*']\n"
        rules += "[limits]\nmemory = '1GiB'\ncores = 8\ndisk = '1GiB'\nblank = '1GiB'\nlifetime = '1d'\nmachines = 9\n"
        return Policy.parse(f"{anchors}{rules}[networks]\nallow = ['user']\n".encode(), "policy")

    def decided(self, manifest: Manifest, policy: Policy, *pairs: tuple[bytes, bytes]) -> dict[str, str]:
        """The rules that refuse an image, with their reasons; empty where it is accepted."""
        checks = verify_endorsements(
            EndorsedSubject(manifest.image_id, manifest.title), pairs, policy.anchors, self.people.now
        )
        decision = decide(policy, ORDER, manifest, checks, self.people.now)
        return {rule.name: rule.reason for rule in decision.failed}

    def endorsed(self, manifest: Manifest, by: str) -> tuple[bytes, bytes]:
        """Somebody's endorsement of an image."""
        keyring = Keyring(self.people.home)
        return endorse(
            KeySigner(keyring, self.people.fingerprints[by]),
            manifest.image_id,
            manifest.title,
            self.people.now,
            role=ROLE,
        )


ROWS: dict[str, Callable[[Scene], None]] = {}


def attack(name: str) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """A row of the table."""

    def add(test: Callable[[Scene], None]) -> Callable[[Scene], None]:
        assert name not in ROWS
        ROWS[name] = test
        return test

    return add


MANIFEST = factories.manifest([Address(hashlib.sha256(bytes([n])).digest(), MIB) for n in range(2)])


@attack("Arbitrary install")
def _(scene: Scene) -> None:
    scene.lied_to(lies.stranger_bin, Unverified)
    policy = scene.policy(1, "ann")
    assert scene.decided(MANIFEST, policy, scene.endorsed(MANIFEST, "ann")) == {}
    assert "endorsements" in " ".join(scene.decided(MANIFEST, policy, scene.endorsed(MANIFEST, "eve")))


@attack("Endless data")
def _(scene: Scene) -> None:
    scene.lied_to(lies.endless_target, Unverified)


@attack("Extraneous dependency")
def _(scene: Scene) -> None:
    document = json.loads(MANIFEST.canonical()) | {"base": OTHER}
    with pytest.raises(DocumentError, match="base"):
        Manifest.parse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    manifest, source = in_memory(factories.bundle(scene.root / "image"))
    with Cache(scene.root / "cache", 1 << 30, Clock()) as cache:
        Stager(cache, source, PACE).stage(manifest, "m", 60)
    assert {address for address, _, _ in source.reads} <= set(manifest.contents())


@attack("Fast-forward")
def _(scene: Scene) -> None:
    repository = scene.repository()
    reference = Reference.parse("star/worker")
    with repository.catalog(scene.root / "node") as node:
        repository.put_timestamp(version=2_000_000)
        node.resolve(reference)
        repository.put_timestamp(version=10)
        with pytest.raises(Unverified):
            node.resolve(reference)
        repository.rotate("timestamp")
        repository.rotate("snapshot")
        repository.put_snapshot()
        repository.put_timestamp()
        assert node.resolve(reference), "new keys end it"


@attack("Freeze")
def _(scene: Scene) -> None:
    scene.lied_to(lies.frozen, Stale)


@attack("Rollback")
def _(scene: Scene) -> None:
    scene.lied_to(lies.old_snapshot, Unverified)


@attack("Mix-and-match")
def _(scene: Scene) -> None:
    scene.lied_to(lies.mixed, Unverified)


@attack("Wrong software")
def _(scene: Scene) -> None:
    scene.lied_to(lies.about_another_name, Unverified)


@attack("One key stolen of two")
def _(scene: Scene) -> None:
    policy = scene.policy(2, "ann", "bob")
    stolen = [scene.endorsed(MANIFEST, "ann") for _ in range(3)]
    assert scene.decided(MANIFEST, policy, *stolen)
    assert scene.decided(MANIFEST, policy, *stolen, scene.endorsed(MANIFEST, "bob")) == {}


@attack("Catalog taken over entirely")
def _(scene: Scene) -> None:
    repository = scene.repository()  # its keys are the attacker's
    evil = repository.image("2.0")
    with repository.catalog(scene.root / "node") as node:
        assert node.resolve(Reference.parse("star/worker")) == evil.image_id, "what is current it may say"
    replayed = scene.endorsed(MANIFEST, "ann")
    assert scene.decided(evil, scene.policy(1, "ann"), scene.endorsed(evil, "eve"), replayed), "what boots it may not"


@attack("Mirror taken over")
def _(scene: Scene) -> None:
    scene.lied_to(lies.other_content, Unverified)


@attack("Tracker and peers hostile")
def _(scene: Scene) -> None:
    manifest, source = in_memory(factories.bundle(scene.root / "image"))
    address = max(manifest.contents(), key=lambda each: each.size)
    source.corrupt = {12_345: 1000}
    with Cache(scene.root / "cache", 1 << 30, Clock()) as cache:
        with pytest.raises(ContentCorrupt, match=str(address)[:16]):
            Stager(cache, source, PACE).stage(manifest, "m", 60)
        with pytest.raises(NotCached):
            cache.path(address)


@attack("Policy file half-written")
def _(scene: Scene) -> None:
    file = scene.root / "policy.toml"
    file.write_text("[limits]\ncores = 2\n")
    store = PolicyStore(file)
    good = store.current().digest
    file.write_text("[limits]\ncores = 2\n[images]\nallow = ['*/*'")
    assert store.current().digest == good
    assert store.problem
    with pytest.raises(PolicyUnusable):
        PolicyStore(file).current()


@attack("Clock wrong by a day")
def _(scene: Scene) -> None:
    scene.lied_to(lies.clock_behind, Stale)
    Scene(scene.people, scene.root / "ahead").lied_to(lies.frozen, Stale)


@attack("Same version, other content")
def _(scene: Scene) -> None:
    repository = scene.repository()
    with repository.catalog(scene.root / "node") as node:
        node.resolve(Reference.parse("star/worker@1.0"))
        repository.image(needs={"memory": 1 << 30, "cores": 2})
        with pytest.raises(Equivocation, match="ALARM"):
            node.resolve(Reference.parse("star/worker@1.0"))


@attack("Endorsement replayed for another image")
def _(scene: Scene) -> None:
    pair = scene.people.endorse("ann")
    assert scene.weigh(pair).counts
    assert not scene.weigh(pair, image=OTHER).counts


@attack("Another kind of statement as an endorsement")
def _(scene: Scene) -> None:
    signer = KeySigner(Keyring(scene.people.home), scene.people.fingerprints["ann"])
    pair = revoke(signer, RevokedObject("image", TITLE, digest=IMAGE), "star", scene.people.now, reason="compromised")
    check = scene.weigh(pair)
    assert not check.counts
    assert "predicateType" in check.reason


@attack("Bad signatures among good ones, in every order")
def _(scene: Scene) -> None:
    makers = {
        "revoked": signatures.by_revoked_before,
        "expired": signatures.at_their_time("expired"),
        "future": signatures.made("bob", later=timedelta(hours=1)),
        "good": signatures.sign("ann"),
    }
    parts = {name: make(scene.people) for name, make in makers.items()}
    keys = [scene.people.public[name] for name in ("ann", "bob", "revoked", "expired")]
    for order in itertools.permutations(parts):
        checks = examine(signatures.DATA, b"".join(parts[name] for name in order), keys, scene.people.now)
        assert [check.good for check in checks] == [name == "good" for name in order], order


@attack("Weak hash")
def _(scene: Scene) -> None:
    signature = scene.people.sign("rsa", signatures.DATA, "--digest-algo", "SHA1", "--detach-sign")
    (check,) = examine(signatures.DATA, signature, [scene.people.public["rsa"]], scene.people.now)
    assert not check.good
    assert "hash" in check.reason


def _grid(scene: Scene, *, crl: bool = True) -> tuple[Grid, Holder, Holder]:
    """A site's CAs; somebody with a certificate by one of them, and a namesake with one by a CA of her own."""
    scene.root.joinpath("grid").mkdir()
    grid = Grid(scene.root / "grid", utc_now())
    known, stranger = grid.root("/DC=org/CN=CA"), grid.root("/DC=org/CN=CA")
    grid.install(known, "/DC=org/*", crl=crl)
    return grid, grid.person(known, "/DC=org/CN=Ann"), grid.person(stranger, "/DC=org/CN=Ann")


@attack("Certificate from an unlisted CA")
def _(scene: Scene) -> None:
    grid, ann, namesake = _grid(scene)
    for who, counts in ((ann, True), (namesake, False)):
        pair = endorse(who.signer(), IMAGE, TITLE, grid.now)
        (check,) = verify_endorsements(EndorsedSubject(IMAGE), [pair], [ann.anchor()], grid.now, x509=grid.rules)
        assert check.counts is counts, check.reason


@attack("CRL missing")
def _(scene: Scene) -> None:
    grid, ann, _ = _grid(scene, crl=False)
    pair = endorse(ann.signer(), IMAGE, TITLE, grid.now)
    (check,) = verify_endorsements(EndorsedSubject(IMAGE), [pair], [ann.anchor()], grid.now, x509=grid.rules)
    assert not check.counts
    assert "revocation list" in check.reason


@attack("Image list signed by another than it names")
def _(scene: Scene) -> None:
    grid, ann, _ = _grid(scene)
    image = ListedImage(
        identifier="00000001-0000-4000-8000-000000000000", title="x", description="", version="1", uri="http://x/",
        size=1, sha512="ab" * 64, architecture="x86_64", os="x", os_version="1", comments="", hypervisor="kvm",
    )  # fmt: skip
    named = ImageList(
        identifier="00000002-0000-4000-8000-000000000000", title="x", description="x", source="x", uri="http://x/",
        version="1", created=grid.now, expires=grid.now + DAY, images=(image,),
        endorser=NamedEndorser(dn="/DC=org/CN=Bob", ca="/DC=org/CN=CA", email="x", creator="Bob"),
    )  # fmt: skip
    message = sign_message(ann.signer(), write_list(named), grid.now)
    order = ImportRequest("site", ListEndorser("/DC=org/CN=Bob", "/DC=org/CN=CA"), every=True)
    with pytest.raises(Unverified, match=r"CN=Ann \(CA .*\) signed it"):
        open_list(message, Subscriptions(scene.root / "state"), order, grid.rules, grid.now)


@attack("User-data in disguise")
def _(scene: Scene) -> None:
    for data in (b"  #include http://x/", b"\n#!/bin/sh", b"#cloud-config\n# MIME-Version: 1.0\na: 1\n"):
        with pytest.raises(UserDataRefused):
            check_user_data(data)
    with suppress(UserDataRefused):
        assert check_user_data(b"## template: jinja\n#cloud-config\na: 1\n") != "cloud-config"


@pytest.mark.parametrize("row", ROWS)
def test_attack(row: str, people: People, tmp_path: Path) -> None:
    ROWS[row](Scene(people, tmp_path))


def test_the_table_and_the_tests_are_the_same_list() -> None:
    section = TABLE.read_text().partition("\n## Attacks\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)
    assert rows[:1] == ["attack"]
    assert [row for row in rows[1:] if not row.startswith("---")] == list(ROWS)
