"""Revocations: who may withdraw what, what that voids, and that nothing else does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from signer.openpgp.keyring import Keyring
from signer.statements.revocation import SECURITY_OFFICER, RevokedObject
from signer.verification.endorsements import endorse, verify_endorsements
from signer.verification.revocations import (
    EffectiveRevocation,
    RevocationCheck,
    apply_revocations,
    revoke,
    verify_revocations,
)
from signer.verification.signature_cache import SignatureCache
from signer.verification.signers import KeySigner, Signer
from signer.verification.trust import EndorsedSubject, EndorsementCheck
from tests.support.grid_ca import DAY, Grid, utc_now

IMAGE, OTHER, TITLE = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32, "star/worker@1.0"
ADMIN = "image-administrator"
Pair = tuple[bytes, bytes]


@dataclass
class Vo:
    """Ann (a key) and Ben (a certificate) endorse for star; Ola (a certificate) is its security officer; Eve is nobody."""

    path: Path
    ann: Signer = field(init=False)
    eve: Signer = field(init=False)
    ben: Signer = field(init=False)
    ola: Signer = field(init=False)

    def __post_init__(self) -> None:
        (self.path / "ca").mkdir()
        self.now = utc_now()
        self.grid = Grid(self.path / "ca", self.now)
        self.root = self.grid.root("/DC=org/CN=Root")
        self.grid.install(self.root, "/DC=org/*")
        self.ben_card = self.grid.person(self.root, "/DC=org/CN=Ben")
        self.ben, self.ola = self.ben_card.signer(), self.grid.person(self.root, "/DC=org/CN=Ola").signer()
        keyring = Keyring(self.path / "keys")
        self.ann = KeySigner(keyring, keyring.generate("Ann <ann@star.example>"))
        self.eve = KeySigner(keyring, keyring.generate("Eve <eve@evil.example>"))
        self.anchors = (
            self.ann.anchor("star", ADMIN),
            self.ben.anchor("star", ADMIN),
            self.ola.anchor("star", SECURITY_OFFICER),
            self.eve.anchor("atlas", SECURITY_OFFICER),
        )
        self.by = {name: endorse(who, IMAGE, TITLE, self.now) for name, who in (("ann", self.ann), ("ben", self.ben))}

    def checks(self) -> list[EndorsementCheck]:
        """Ann's and Ben's endorsements of the image, both good."""
        found = verify_endorsements(
            EndorsedSubject(IMAGE), list(self.by.values()), self.anchors, self.now, x509=self.grid.rules
        )
        assert all(check.counts for check in found), found
        return found

    def verify(
        self, *pairs: Pair, now: timedelta = timedelta(0), memory: SignatureCache | None = None
    ) -> list[RevocationCheck]:
        """What the revocations are worth."""
        return verify_revocations(pairs, self.anchors, self.now + now, x509=self.grid.rules, cache=memory)

    def left(self, *pairs: Pair) -> set[str]:
        """Whose endorsements still count."""
        held = [check.revocation for check in self.verify(*pairs) if check.revocation]
        after = apply_revocations(self.checks(), held)
        return {name for name, check in zip(self.by, after, strict=True) if check.counts}

    def digest(self, name: str) -> str:
        """Of the statement of somebody's endorsement."""
        return {check.fingerprint: check.digest for check in self.checks()}[
            getattr(self, name).endorser.partition(":")[2]
        ]


@pytest.fixture(scope="module")
def vo(tmp_path_factory: pytest.TempPathFactory) -> Vo:
    return Vo(tmp_path_factory.mktemp("vo"))


def revoked(vo: Vo, who: Signer, kind: Any, target: str = TITLE, **more: Any) -> Pair:
    of_object = {name: more.pop(name) for name in ("digest", "serial", "since") if name in more}
    known = RevokedObject(kind, target, **of_object)
    return revoke(who, known, more.pop("of", "star"), vo.now, **({"reason": "compromised"} | more))


Case = tuple[str, Callable[[Vo], Pair], set[str]]
BOTH = {"ann", "ben"}
TABLE: list[Case] = [
    ("Ann, her endorsement", lambda v: revoked(v, v.ann, "endorsement", digest=v.digest("ann")), {"ben"}),
    ("Ann, Ben's endorsement", lambda v: revoked(v, v.ann, "endorsement", digest=v.digest("ben")), BOTH),
    ("the officer, Ann's endorsement", lambda v: revoked(v, v.ola, "endorsement", digest=v.digest("ann")), {"ben"}),
    ("the officer of another VO", lambda v: revoked(v, v.eve, "endorsement", digest=v.digest("ann")), BOTH),
    ("that one for his own VO", lambda v: revoked(v, v.eve, "endorsement", digest=v.digest("ann"), of="atlas"), BOTH),
    ("Ann, the image: her word only", lambda v: revoked(v, v.ann, "image", digest=IMAGE), {"ben"}),
    ("the officer, the image", lambda v: revoked(v, v.ola, "image", digest=IMAGE), set()),
    ("the officer, another image", lambda v: revoked(v, v.ola, "image", digest=OTHER), BOTH),
    ("Ann, her stolen key", lambda v: revoked(v, v.ann, "key", v.ann.endorser), {"ben"}),
    ("Ben, his stolen key", lambda v: revoked(v, v.ben, "key", v.ben.endorser), {"ann"}),
    ("Ben, Ann's key", lambda v: revoked(v, v.ben, "key", v.ann.endorser), BOTH),
    ("the officer, Ben's certificate", lambda v: revoked(v, v.ola, "key", v.ben.endorser), {"ann"}),
    (
        "the officer, that certificate of Ben's",
        lambda v: revoked(v, v.ola, "key", v.ben.endorser, serial=f"{v.ben_card.certificate.serial_number:x}"),
        {"ann"},
    ),
    ("the officer, another of Ben's", lambda v: revoked(v, v.ola, "key", v.ben.endorser, serial="1f"), BOTH),
    (
        "superseded after the endorsement",
        lambda v: revoked(v, v.ann, "key", v.ann.endorser, reason="superseded", since=v.now + timedelta(seconds=1)),
        BOTH,
    ),
    (
        "superseded before the endorsement",
        lambda v: revoked(v, v.ann, "key", v.ann.endorser, reason="superseded", since=v.now - DAY),
        {"ben"},
    ),
    (
        "compromised, found out afterwards",
        lambda v: revoked(v, v.ann, "key", v.ann.endorser, since=v.now + timedelta(days=1)),
        {"ben"},
    ),
    (
        "Eve in the officer's name",
        lambda v: ((pair := revoked(v, v.ola, "image", digest=IMAGE))[0], v.eve.sign(pair[0], v.now)),
        BOTH,
    ),
    (
        "with one byte changed",
        lambda v: ((p := revoked(v, v.ola, "image", digest=OTHER))[0].replace(b"cd" * 32, b"ab" * 32), p[1]),
        BOTH,
    ),
    ("an endorsement as a revocation", lambda v: v.by["ann"], BOTH),
    (
        "from the future",
        lambda v: revoke(v.ann, RevokedObject("key", v.ann.endorser), "star", v.now + DAY, reason="retired"),
        BOTH,
    ),
]


def test_who_may_withdraw_what(vo: Vo) -> None:
    wrong = [(what, left) for what, make, expected in TABLE if (left := vo.left(make(vo))) != expected]
    assert not wrong


def test_a_revocation_is_no_endorsement(vo: Vo) -> None:
    pair = revoked(vo, vo.ann, "image", digest=IMAGE)
    (check,) = verify_endorsements(EndorsedSubject(IMAGE), [pair], vo.anchors, vo.now, x509=vo.grid.rules)
    assert not check.counts
    assert "$.predicateType" in check.reason


def test_bad_ones_among_good_ones_change_nothing(vo: Vo) -> None:
    good = revoked(vo, vo.ann, "key", vo.ann.endorser)
    bad = [make(vo) for what, make, left in TABLE if left == BOTH and "superseded" not in what]
    for at in range(0, len(bad) + 1, 3):
        assert vo.left(*bad[:at], good, *bad[at:]) == {"ben"}


def test_what_was_withdrawn_says_why(vo: Vo) -> None:
    (found,) = vo.verify(revoked(vo, vo.ola, "image", digest=IMAGE, comment="log4j"))
    assert found.revocation is not None
    assert found.revocation.stops(IMAGE, "star")
    assert not found.revocation.stops(OTHER, "star")
    assert not found.revocation.stops(IMAGE, "atlas")
    for check in apply_revocations(vo.checks(), [found.revocation]):
        assert check.reason == f"The image was revoked as compromised on {vo.now:%Y-%m-%d} by /DC=org/CN=Ola (log4j)."


def test_an_endorser_alone_does_not_stop_an_image(vo: Vo) -> None:
    (found,) = vo.verify(revoked(vo, vo.ann, "image", digest=IMAGE))
    assert isinstance(found.revocation, EffectiveRevocation)
    assert not found.revocation.stops(IMAGE, "star")


def test_what_is_withdrawn_stays_so_when_keys_and_lists_expire(vo: Vo) -> None:
    pairs = [revoked(vo, vo.ola, "image", digest=IMAGE), revoked(vo, vo.ann, "key", vo.ann.endorser)]
    later = vo.verify(*pairs, now=timedelta(days=2000))
    assert [check.counts for check in later] == [True, True], later


def test_what_was_examined_is_remembered(vo: Vo) -> None:
    memory = SignatureCache()
    pair = revoked(vo, vo.ola, "image", digest=IMAGE)
    for _ in range(3):
        assert vo.verify(pair, memory=memory)[0].counts
    assert memory.examined == 1


def test_a_namesake_of_an_officer_is_no_officer(vo: Vo) -> None:
    other = vo.grid.root("/DC=net/CN=Other")
    vo.grid.install(other, "/DC=org/*")
    namesake = vo.grid.person(other, "/DC=org/CN=Ola").signer()
    pair = revoked(vo, namesake, "image", digest=IMAGE)
    anchors = (*vo.anchors, namesake.anchor("star", ADMIN))
    (found,) = verify_revocations([pair], anchors, vo.now, x509=vo.grid.rules)
    assert found.revocation is not None
    assert not found.revocation.officer
    (unknown,) = verify_revocations([pair], vo.anchors, vo.now, x509=vo.grid.rules)
    assert not unknown.counts
