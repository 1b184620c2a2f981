"""Endorsements end to end: our statements, real signatures, anchors, and every way not to count."""

import json
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from signer.documents import canonical
from signer.errors import DocumentError, KeyUnusable, SignatureError
from signer.openpgp.keyring import Keyring
from signer.statements.endorsement import MAX_STATEMENT, endorsement_statement, parse_endorsement
from signer.verification.endorsements import MAX_ENDORSEMENTS, endorse, verify_endorsements
from signer.verification.signers import KeySigner
from signer.verification.trust import Anchor, EndorsedSubject
from tests.support.openpgp_people import IMAGE, ROLE, TITLE, People

OTHER = "sha256:" + "cd" * 32


def stated(people: People, name: str, **changes: object) -> bytes:
    """A statement in somebody's name, yet unsigned."""
    values: dict[str, object] = {
        "subject": IMAGE,
        "title": TITLE,
        "endorser": f"openpgp:{people.fingerprints[name]}",
        "role": ROLE,
        "issued": people.now,
        "expires": people.now + timedelta(days=30),
    }
    return endorsement_statement(**(values | changes))  # type: ignore[arg-type]


def test_what_is_endorsed_verifies(people: People) -> None:
    pair = people.endorse("ann")
    (check,) = verify_endorsements(EndorsedSubject(IMAGE, TITLE), [pair], [people.anchor("ann")], people.now)
    assert check.counts, check.reason
    assert (check.fingerprint, check.vo, check.role) == (people.fingerprints["ann"], "star", ROLE)
    assert (check.issued, check.expires) == (people.now, people.now + timedelta(days=365))
    assert parse_endorsement(pair[0]).fingerprint == people.fingerprints["ann"]


def test_stock_gpg_verifies_it(people: People, tmp_path: Path) -> None:
    statement, signature = people.endorse("ann")
    (tmp_path / "e.json").write_bytes(statement)
    (tmp_path / "e.sig").write_bytes(signature)
    with tempfile.TemporaryDirectory() as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--no-autostart"]
        subprocess.run([*gpg, "--import"], input=people.public["ann"], check=True, capture_output=True)
        done = subprocess.run([*gpg, "--verify", "e.sig", "e.json"], cwd=tmp_path, check=False, capture_output=True)
        (tmp_path / "e.json").write_bytes(statement + b" ")
        changed = subprocess.run([*gpg, "--verify", "e.sig", "e.json"], cwd=tmp_path, check=False, capture_output=True)
    assert (done.returncode, changed.returncode) == (0, 1)
    assert b"Good signature" in done.stderr


def forged_pairs(people: People) -> list[tuple[str, tuple[bytes, bytes], str]]:
    """(what, pair, why it does not count) with Ann trusted for star in one role and Bob for atlas."""
    good = people.endorse("ann")
    revocation = canonical({**json.loads(good[0]), "predicateType": "urn:partita:revocation:v1"})
    ours = stated(people, "ann")
    return [
        ("by somebody who is no anchor", people.endorse("eve"), "not trusted as an endorser"),
        ("by an anchor of another VO", people.endorse("bob"), "not trusted for images of VO star, only of atlas"),
        ("in another role", people.endorse("ann", role="site-reviewer"), "in the role site-reviewer"),
        ("for another image", people.endorse("ann", image=OTHER), "another image"),
        ("for another name", people.endorse("ann", title="star/other@1.0"), "manifest says"),
        ("another kind of statement, truly signed", (revocation, people.sign("ann", revocation)), "$.predicateType"),
        ("signed by Eve in Ann's name", (ours, people.sign("eve", ours)), "not among the allowed ones"),
        ("signed by Bob in Ann's name", (ours, people.sign("bob", ours)), "not among the allowed ones"),
        ("with a forging user id", (ours, people.sign("forger", ours)), "not among the allowed ones"),
        ("with the signature of another statement", (ours, good[1]), "other bytes"),
        ("not in canonical form", (ours + b"\n", people.sign("ann", ours + b"\n")), "canonical"),
        ("too large", (b" " * (MAX_STATEMENT + 1), good[1]), "more than the 65536 allowed"),
        ("armoured", (ours, people.sign("ann", ours, "--armor", "--detach-sign")), "without armour"),
        ("clearsigned", (ours, people.sign("ann", ours, "--clearsign")), "without armour"),
        ("unsigned", (ours, b""), "signature is empty"),
        ("expired", _signed(people, expires=people.now, issued=people.now - timedelta(days=1)), "It expired"),
        ("from the future", _signed(people, issued=people.now + timedelta(minutes=6)), "in the future"),
        ("half a year old", _signed(people, issued=people.now - timedelta(days=180)), "180 days old"),
        ("no statement", (b"\xff", good[1]), "not UTF-8"),
    ]


def _signed(people: People, **changes: object) -> tuple[bytes, bytes]:
    statement = stated(people, "ann", **changes)
    return statement, people.sign("ann", statement)


def test_every_other_endorsement_is_named_and_does_not_count(people: People) -> None:
    anchors = [people.anchor("ann"), people.anchor("bob", vo="atlas")]
    rows = forged_pairs(people)
    pairs = [pair for _, pair, _ in rows] + [people.endorse("ann")]
    checks = verify_endorsements(EndorsedSubject(IMAGE, TITLE), pairs, anchors, people.now, max_age=timedelta(days=90))
    assert len(checks) == len(rows) + 1
    for check, (what, _, says) in zip(checks, rows, strict=False):
        assert not check.counts, what
        assert says in check.reason, (what, check.reason)
    assert checks[-1].counts


def test_the_forger_in_the_keyring_still_is_not_ann(people: People) -> None:
    ours = stated(people, "ann")
    pairs = [(ours, people.sign("forger", ours)), (theirs := stated(people, "forger"), people.sign("forger", theirs))]
    anchors = [people.anchor("ann"), people.anchor("forger")]
    first, second = verify_endorsements(EndorsedSubject(IMAGE), pairs, anchors, people.now)
    assert not first.counts
    assert first.reason.startswith(f"It names {people.fingerprints['ann']} but was signed by")
    assert second.counts


def test_an_anchor_whose_key_expired_does_not_count(people: People) -> None:
    statement = stated(people, "expired")
    pair = statement, people.sign("expired", statement, at=people.now - timedelta(days=800))
    (check,) = verify_endorsements(EndorsedSubject(IMAGE), [pair], [people.anchor("expired")], people.now)
    assert check.reason == "The signature does not count: its key has expired."


def test_two_subkeys_of_one_primary_are_one_endorser(people: People) -> None:
    first, second = (stated(people, "subkeys", comment=name) for name in ("first", "second"))
    pairs = [
        (first, people.sign(people.fingerprints["first"] + "!", first)),
        (second, people.sign(people.fingerprints["second"] + "!", second)),
    ]
    checks = verify_endorsements(EndorsedSubject(IMAGE), pairs, [people.anchor("subkeys")], people.now)
    assert all(check.counts for check in checks)
    assert len(checks) == 2
    assert len({check.fingerprint for check in checks}) == 1


def test_two_of_two(people: People) -> None:
    anchors = [people.anchor("ann"), people.anchor("rsa", role="site-reviewer")]
    pairs = [people.endorse("ann"), people.endorse("rsa", role="site-reviewer")]
    checks = verify_endorsements(EndorsedSubject(IMAGE, TITLE), pairs, anchors, people.now)
    assert all(check.counts for check in checks)
    assert len({check.fingerprint for check in checks}) == 2


def test_no_anchors_means_no(people: People) -> None:
    (check,) = verify_endorsements(EndorsedSubject(IMAGE), [people.endorse("ann")], [], people.now)
    assert not check.counts
    assert "No endorser is trusted here" in check.reason


def test_an_anchor_with_somebody_elses_key_does_not_count(people: People) -> None:
    wrong = Anchor("star", ROLE, people.fingerprints["ann"], people.public["bob"])
    (check,) = verify_endorsements(EndorsedSubject(IMAGE), [people.endorse("ann")], [wrong], people.now)
    assert not check.counts


def test_an_anchor_without_a_key_is_an_error(people: People) -> None:
    wrong = Anchor("star", ROLE, people.fingerprints["ann"], b"not a key")
    with pytest.raises(KeyUnusable, match="no OpenPGP public key"):
        verify_endorsements(EndorsedSubject(IMAGE), [people.endorse("ann")], [wrong], people.now)


def test_many_threads_endorse_and_verify_at_once(people: People) -> None:
    anchors = [people.anchor("ann")]
    with ThreadPoolExecutor(6) as pool:
        pairs = list(pool.map(lambda _: people.endorse("ann"), range(6)))
        found = list(
            pool.map(
                lambda pair: verify_endorsements(EndorsedSubject(IMAGE), [pair], anchors, people.now)[0], pairs * 4
            )
        )
    assert [check.reason for check in found if not check.counts] == []
    assert len(found) == 24


def test_the_steps_stand_in_the_code_as_in_the_documentation() -> None:
    root = Path(__file__).parents[3]
    code = (root / "signer/verification/endorsements.py").read_text() + (
        root / "signer/verification/trust.py"
    ).read_text()
    text = (root / "docs/trust-model.md").read_text().partition("## How an endorsement is verified")[2]
    steps = [int(number) for number in re.findall(r"^([0-9]+)\. \*\*", text, re.MULTILINE)]
    assert steps == list(range(1, 11))
    assert all(re.search(rf"(# |, |[Ss]tep |to ){step}\b", code) for step in steps)


def test_a_flood_of_endorsements_is_refused(people: People) -> None:
    with pytest.raises(SignatureError, match="more than the 64 allowed"):
        verify_endorsements(
            EndorsedSubject(IMAGE), [(b"", b"")] * (MAX_ENDORSEMENTS + 1), [people.anchor("ann")], people.now
        )


def test_what_nobody_could_accept_is_not_made(people: People) -> None:
    keyring, ann = Keyring(people.home), people.fingerprints["ann"]
    with pytest.raises(DocumentError, match="role"):
        endorse(KeySigner(keyring, ann), IMAGE, TITLE, people.now, role="The Boss")
    with pytest.raises(DocumentError, match="must expire after"):
        endorse(KeySigner(keyring, ann), IMAGE, TITLE, people.now, lifetime=timedelta())
    with pytest.raises(KeyUnusable, match="is not a valid fingerprint"):
        endorse(KeySigner(keyring, ann[-16:]), IMAGE, TITLE, people.now)
    for name, says in (("expired", "expired on"), ("revoked", "was revoked")):
        with pytest.raises(KeyUnusable, match=says):
            endorse(KeySigner(keyring, people.fingerprints[name]), IMAGE, TITLE, people.now)


def test_a_key_made_after_the_clock_was_read_may_endorse(people: People, tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    fingerprint = keyring.generate("Ada", now=people.now + timedelta(seconds=30))
    statement, signature = endorse(KeySigner(keyring, fingerprint), IMAGE, TITLE, people.now)
    anchor = Anchor("star", ROLE, fingerprint, keyring.export(fingerprint))
    assert verify_endorsements(EndorsedSubject(IMAGE), [(statement, signature)], [anchor], people.now)[0].counts
