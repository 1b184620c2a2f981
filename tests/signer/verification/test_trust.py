"""Verdicts from values alone: who counts, who does not and why, how many are missing."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from signer.errors import KeyUnusable
from signer.openpgp.status_lines import SKEW, SignatureCheck
from signer.statements.endorsement import endorsement_statement
from signer.verification.trust import (
    Anchor,
    Claim,
    EndorsedSubject,
    EndorsementCheck,
    ExaminedStatement,
    evaluate_claim,
    read_claim,
)

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
IMAGE, OTHER = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
TITLE = "star/worker@1.0"
ANN, BOB, EVE = "A" * 40, "B" * 40, "E" * 40
ADMIN, REVIEWER = "image-administrator", "site-reviewer"
ANCHORS = (
    Anchor("star", ADMIN, ANN, b"ann"),
    Anchor("star", REVIEWER, BOB, b"bob"),
    Anchor("atlas", ADMIN, BOB, b"bob"),
)


def endorsement(
    signer: str = ANN,
    *,
    by: str | None = None,
    image: str = IMAGE,
    title: str = TITLE,
    role: str = ADMIN,
    issued: datetime = NOW - timedelta(days=10),
    expires: datetime = NOW + timedelta(days=10),
) -> ExaminedStatement:
    """What `signer` is said to have stated, with a good signature by `by` (the same, unless said otherwise)."""
    statement = endorsement_statement(image, title, f"openpgp:{signer}", role, issued, expires, "")
    return ExaminedStatement(statement, (SignatureCheck("openpgp", True, by or signer, by or signer, issued),))


def check(
    examined: ExaminedStatement,
    anchors: Sequence[Anchor] = ANCHORS,
    *,
    max_age: timedelta | None = None,
    title: str | None = None,
) -> EndorsementCheck:
    """Steps 2 to 9 for one statement whose signatures have been examined."""
    claim = read_claim(EndorsedSubject(IMAGE, title), examined.statement, anchors)
    return evaluate_claim(claim, examined, NOW, max_age=max_age) if isinstance(claim, Claim) else claim


def test_an_anchor_that_vouches_counts() -> None:
    signer = check(endorsement(), title=TITLE)
    assert signer.counts
    assert signer.fingerprint == ANN
    assert (signer.vo, signer.role, signer.expires) == ("star", ADMIN, NOW + timedelta(days=10))
    assert signer.reason == f"{ANN} vouches as {ADMIN} of star until 2026-12-02."


SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("what", "examined", "says"),
    [
        ("about another image", endorsement(image=OTHER), f"another image, {OTHER}"),
        ("about another title", endorsement(title="star/worker@2.0"), "manifest says star/worker@1.0"),
        ("by nobody's anchor", endorsement(EVE), "is not trusted as an endorser here"),
        ("for another VO", endorsement(title="atlas/worker@1.0"), "manifest says"),
        ("in a role that is not the anchor's", endorsement(role=REVIEWER), f"in the role {REVIEWER}, only as {ADMIN}"),
        ("with a role of another VO", endorsement(BOB), f"only as {REVIEWER}"),
        ("in Ann's name by Bob", endorsement(by=BOB), f"names {ANN} but was signed by {BOB}"),
        ("in Ann's name by Eve", endorsement(by=EVE), f"names {ANN} but was signed by {EVE}"),
        ("issued in the future", endorsement(issued=NOW + SKEW + SECOND), "in the future"),
        ("expired this second", endorsement(expires=NOW), "It expired on 2026-11-22"),
        ("too old", endorsement(issued=NOW - timedelta(days=31)), "31 days old, more than the 30 allowed"),
        ("unsigned", ExaminedStatement(endorsement().statement), "does not count: the file holds no signature"),
        (
            "not examined",
            ExaminedStatement(endorsement().statement, problem="the signature is empty"),
            "The signature is empty",
        ),
        (
            "badly signed",
            ExaminedStatement(
                endorsement().statement, (SignatureCheck("openpgp", False, ANN, ANN, NOW, "it is of class 01"),)
            ),
            "does not count: it is of class 01",
        ),
        (
            "signed in another scheme",
            ExaminedStatement(endorsement().statement, (SignatureCheck("x509", True, ANN, ANN, NOW),)),
            "was signed by",
        ),
        ("no statement at all", ExaminedStatement(b"{}"), "endorsement: $"),
        (
            "another kind of statement",
            ExaminedStatement(
                endorsement().statement.replace(b":endorsement:v1", b":revocation:v1"), endorsement().signatures
            ),
            "endorsement: $.predicateType",
        ),
    ],
)
def test_what_does_not_count_says_why(what: str, examined: ExaminedStatement, says: str) -> None:
    other = check(examined, max_age=timedelta(days=30), title=TITLE)
    assert not other.counts
    assert says in other.reason
    assert other.reason.endswith(".")


def test_a_wrong_vo_does_not_count_even_without_a_title() -> None:
    other = check(endorsement(title="atlas/worker@1.0"))
    assert not other.counts
    assert other.reason == f"{ANN} is not trusted for images of VO atlas, only of star."


@pytest.mark.parametrize(
    ("what", "examined"),
    [
        ("issued by a clock ahead", endorsement(issued=NOW + SKEW)),
        ("expires in a second", endorsement(expires=NOW + SECOND)),
        ("as old as allowed", endorsement(issued=NOW - timedelta(days=30))),
    ],
)
def test_the_edges_count(what: str, examined: ExaminedStatement) -> None:
    assert check(examined, max_age=timedelta(days=30)).counts


def test_one_good_signature_among_others_is_enough() -> None:
    good = endorsement()
    bad = SignatureCheck("openpgp", False, reason="its key was revoked")
    eve = SignatureCheck("openpgp", True, EVE, EVE, NOW)
    for signatures in ((bad, eve, *good.signatures), (*good.signatures, eve, bad)):
        assert check(ExaminedStatement(good.statement, signatures)).counts


def test_an_endorser_has_one_fingerprint_in_every_endorsement() -> None:
    ann, again = endorsement(), endorsement(issued=NOW - timedelta(days=1))
    bob = endorsement(BOB, role=REVIEWER)
    assert [check(one).fingerprint for one in (ann, again, bob)] == [ANN, ANN, BOB]


def test_without_anchors_nothing_counts() -> None:
    refused = check(endorsement(), [])
    assert not refused.counts
    assert refused.reason.startswith("No endorser is trusted here")


@pytest.mark.parametrize("fingerprint", ["a" * 40, "A" * 16, "A" * 64, "Ann <ann@star.example>", ""])
def test_an_anchor_that_could_never_match_is_refused(fingerprint: str) -> None:
    with pytest.raises(KeyUnusable):
        Anchor("star", ADMIN, fingerprint, b"")
