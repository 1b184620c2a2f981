"""Verdicts from values alone: who counts, who does not and why, how many are missing."""

from datetime import UTC, datetime, timedelta

import pytest

from signer.errors import KeyUnusable
from signer.openpgp.status_lines import SKEW, SignatureCheck
from signer.statements.endorsement import endorsement_statement
from signer.verification.trust import Anchor, ExaminedStatement, evaluate_endorsements

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


def test_an_anchor_that_vouches_counts() -> None:
    verdict = evaluate_endorsements(IMAGE, [endorsement()], ANCHORS, NOW, threshold=1, title=TITLE)
    assert verdict
    assert [signer.fingerprint for signer in verdict.signers] == [ANN]
    assert (verdict.others, verdict.missing) == ((), 0)
    (signer,) = verdict.signers
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
        ("unsigned", ExaminedStatement(endorsement().statement), "does not count: there is none"),
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
    verdict = evaluate_endorsements(
        IMAGE, [examined], ANCHORS, NOW, threshold=1, max_age=timedelta(days=30), title=TITLE
    )
    assert not verdict
    assert (verdict.signers, verdict.missing) == ((), 1)
    (other,) = verdict.others
    assert says in other.reason
    assert other.reason.endswith(".")


def test_a_wrong_vo_does_not_count_even_without_a_title() -> None:
    (other,) = evaluate_endorsements(IMAGE, [endorsement(title="atlas/worker@1.0")], ANCHORS, NOW).others
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
    assert evaluate_endorsements(IMAGE, [examined], ANCHORS, NOW, max_age=timedelta(days=30))


def test_one_good_signature_among_others_is_enough() -> None:
    good = endorsement()
    bad = SignatureCheck("openpgp", False, reason="its key was revoked")
    eve = SignatureCheck("openpgp", True, EVE, EVE, NOW)
    for signatures in ((bad, eve, *good.signatures), (*good.signatures, eve, bad)):
        assert evaluate_endorsements(IMAGE, [ExaminedStatement(good.statement, signatures)], ANCHORS, NOW)


def test_distinct_primaries_are_counted() -> None:
    ann, again = endorsement(), endorsement(issued=NOW - timedelta(days=1))
    bob = endorsement(BOB, role=REVIEWER)
    verdict = evaluate_endorsements(IMAGE, [ann, again, ann], ANCHORS, NOW, threshold=2)
    assert (bool(verdict), verdict.missing, verdict.reason) == (False, 1, "1 of 2 endorsers vouch.")
    verdict = evaluate_endorsements(IMAGE, [ann, again, bob], ANCHORS, NOW, threshold=2)
    assert (bool(verdict), verdict.missing, len(verdict.signers)) == (True, 0, 2)


@pytest.mark.parametrize("threshold", [0, -1])
def test_demanding_nothing_is_a_refusal(threshold: int) -> None:
    verdict = evaluate_endorsements(IMAGE, [endorsement()], ANCHORS, NOW, threshold=threshold)
    assert not verdict
    assert "demand at least one" in verdict.reason


def test_no_anchors_and_no_endorsements_are_refusals() -> None:
    assert not evaluate_endorsements(IMAGE, [], ANCHORS, NOW)
    verdict = evaluate_endorsements(IMAGE, [endorsement()], [], NOW)
    assert not verdict
    assert verdict.reason.startswith("No endorser is trusted here")
    assert verdict.others[0].reason.startswith("No endorser is trusted here")


@pytest.mark.parametrize("fingerprint", ["a" * 40, "A" * 16, "A" * 64, "Ann <ann@star.example>", ""])
def test_an_anchor_that_could_never_match_is_refused(fingerprint: str) -> None:
    with pytest.raises(KeyUnusable):
        Anchor("star", ADMIN, fingerprint, b"")
