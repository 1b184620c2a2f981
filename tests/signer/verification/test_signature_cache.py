"""Remembered signatures: nothing is examined twice that need not be, and nothing is believed for too long."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from signer.openpgp.keyring import Keyring
from signer.verification.endorsements import endorse, verify_endorsements
from signer.verification.signature_cache import SignatureCache
from signer.verification.signers import KeySigner
from signer.verification.trust import Anchor, EndorsedSubject

IMAGE = "sha256:" + "ab" * 32
TITLE = "star/worker@1.0"
NOW = datetime.now(UTC).replace(microsecond=0)


class Signed:
    """Two keys, one that expires soon, and an endorsement by each."""

    def __init__(self, root: Path) -> None:
        self.keyring = Keyring(root)
        self.keys = [
            self.keyring.generate("Alice <a@star.example>"),
            self.keyring.generate("Bob <b@star.example>", lifetime=timedelta(days=2)),
        ]
        self.pairs = [endorse(KeySigner(self.keyring, key), IMAGE, TITLE, datetime.now(UTC)) for key in self.keys]
        self.anchors = [Anchor("star", "image-administrator", key, self.keyring.export(key)) for key in self.keys]


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("keys"))


def counts(
    signed: Signed, memory: SignatureCache, now: datetime, pairs: list[tuple[bytes, bytes]] | None = None
) -> list[bool]:
    checks = verify_endorsements(
        EndorsedSubject(IMAGE, TITLE), pairs or signed.pairs, signed.anchors, now, cache=memory
    )
    return [check.counts for check in checks]


def test_the_same_bytes_are_examined_once(signed: Signed) -> None:
    memory, now = SignatureCache(), datetime.now(UTC)
    for _ in range(3):
        assert counts(signed, memory, now) == [True, True]
    assert memory.examined == 2


def test_what_is_remembered_is_what_would_be_found(signed: Signed) -> None:
    memory, now = SignatureCache(), datetime.now(UTC)
    counts(signed, memory, now)
    for days in (0, 1, 3, 400):
        then = now + timedelta(days=days)
        fresh = verify_endorsements(EndorsedSubject(IMAGE, TITLE), signed.pairs, signed.anchors, then)
        known = verify_endorsements(EndorsedSubject(IMAGE, TITLE), signed.pairs, signed.anchors, then, cache=memory)
        assert [check.counts for check in known] == [check.counts for check in fresh], days


def test_a_key_that_expires_ends_what_is_remembered(signed: Signed) -> None:
    memory, now = SignatureCache(), datetime.now(UTC)
    assert counts(signed, memory, now) == [True, True]
    assert counts(signed, memory, now + timedelta(days=3)) == [True, False]
    assert memory.examined == 3


def test_a_clock_that_went_back_is_a_reason_to_look_again(signed: Signed) -> None:
    memory, now = SignatureCache(), datetime.now(UTC)
    counts(signed, memory, now)
    counts(signed, memory, now - timedelta(seconds=30))
    assert memory.examined == 4


def test_bad_signatures_are_remembered_too(signed: Signed) -> None:
    memory, now = SignatureCache(), datetime.now(UTC)
    crossed = [(signed.pairs[0][0], signed.pairs[1][1])]
    for _ in range(3):
        assert counts(signed, memory, now, crossed) == [False]
    assert memory.examined == 1


def test_one_byte_or_another_anchor_is_another_question(signed: Signed) -> None:
    memory, now = SignatureCache(), datetime.now(UTC)
    counts(signed, memory, now)
    fewer = verify_endorsements(EndorsedSubject(IMAGE, TITLE), signed.pairs[:1], signed.anchors[:1], now, cache=memory)
    assert fewer[0].counts
    assert memory.examined == 3
    other = verify_endorsements(EndorsedSubject(IMAGE, TITLE), signed.pairs[1:], signed.anchors[:1], now, cache=memory)
    assert not other[0].counts
    signature = bytearray(signed.pairs[0][1])
    signature[-1] ^= 1
    assert counts(signed, memory, now, [(signed.pairs[0][0], bytes(signature))]) == [False]


def test_a_signature_from_the_future_is_looked_at_again_in_its_time(signed: Signed) -> None:
    memory, now = SignatureCache(), datetime.now(UTC)
    statement, _ = signed.pairs[0]
    later = signed.keyring.sign(statement, signed.keys[0], now=now + timedelta(hours=2))
    assert counts(signed, memory, now, [(statement, later)]) == [False]
    assert counts(signed, memory, now + timedelta(hours=3), [(statement, later)]) == [True]


def test_the_least_used_is_forgotten(signed: Signed) -> None:
    memory, now = SignatureCache(most=1), datetime.now(UTC)
    counts(signed, memory, now)  # the second is remembered, the first was
    counts(signed, memory, now)
    assert memory.examined == 3
