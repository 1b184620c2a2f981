"""The endorsement statement: one canonical form, everything else refused with its place."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signer.documents import canonical
from signer.errors import DocumentError
from signer.statements.endorsement import MAX_STATEMENT, endorsement_statement, parse_endorsement

DOCS = Path(__file__).parents[3] / "docs"
ISSUED = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
ENDORSER = "openpgp:" + "0123456789ABCDEF0123456789ABCDEF01234567"
VECTOR = (
    b'{"_type":"https://in-toto.io/Statement/v1","predicate":{"comment":"","endorser":'
    b'"openpgp:0123456789ABCDEF0123456789ABCDEF01234567","expires":"2027-11-22T12:00:00Z",'
    b'"issued":"2026-11-22T12:00:00Z","role":"image-administrator"},"predicateType":"urn:partita:endorsement:v1",'
    b'"subject":[{"digest":{"sha256":"abababababababababababababababababababababababababababababababab"},'
    b'"name":"star/worker@1.0"}]}'
)


def make(**changes: object) -> bytes:
    values: dict[str, object] = {
        "subject": "sha256:" + "ab" * 32,
        "title": "star/worker@1.0",
        "endorser": ENDORSER,
        "role": "image-administrator",
        "issued": ISSUED,
        "expires": ISSUED + timedelta(days=365),
    }
    return endorsement_statement(**(values | changes))  # type: ignore[arg-type]


def test_the_bytes_are_those_of_the_documentation() -> None:
    assert make() == VECTOR
    assert hashlib.sha256(VECTOR).hexdigest() == "ae048cfe645a6d65e46e36227906c4931faba912f74c5eacea701355f987f1e7"


def test_the_documentation_gives_the_bytes_and_their_digest() -> None:
    formats = "".join(file.read_text() for file in sorted(DOCS.glob("formats*.md")))
    assert VECTOR.decode() in formats
    assert hashlib.sha256(VECTOR).hexdigest() in formats
    assert f"These {len(VECTOR)} bytes" in formats


def test_what_was_written_is_read_back() -> None:
    statement = parse_endorsement(make(comment="tested on the farm – twice"))
    assert statement.image_id == "sha256:" + "ab" * 32
    assert (statement.vo, statement.title, statement.scheme) == ("star", "star/worker@1.0", "openpgp")
    assert statement.fingerprint == ENDORSER.removeprefix("openpgp:")
    assert statement.predicate.issued == ISSUED
    assert statement.predicate.comment == "tested on the farm – twice"


def test_times_are_written_in_utc_with_whole_seconds() -> None:
    local = ISSUED.astimezone(timezone(timedelta(hours=5))) + timedelta(microseconds=7)
    assert make(issued=local) == make()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject", "sha256:" + "AB" * 32),
        ("subject", "sha512:" + "ab" * 32),
        ("title", "worker"),
        ("title", "star/worker@1.0\n"),
        ("title", "star/../x@1"),
        ("endorser", "openpgp:0123456789ABCDEF"),
        ("endorser", "Ann <ann@star.example>"),
        ("endorser", "x509:" + "A" * 40),
        ("role", "Chief"),
        ("role", ""),
        ("comment", "\x1b[31mred"),
        ("comment", "x\u202ey"),
        ("comment", "x" * 1025),
        ("expires", ISSUED),
        ("expires", ISSUED - timedelta(days=1)),
    ],
)
def test_nothing_malformed_is_written(field: str, value: object) -> None:
    with pytest.raises(DocumentError, match=r"^endorsement: \$"):
        make(**{field: value})


def changed(path: str, value: object) -> bytes:
    document = json.loads(VECTOR)
    *parents, last = path.split(".")
    place = document
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return canonical(document)


@pytest.mark.parametrize(
    ("what", "data", "says"),
    [
        ("another kind of statement", changed("predicateType", "urn:partita:revocation:v1"), "$.predicateType"),
        ("an older in-toto", changed("_type", "https://in-toto.io/Statement/v0.1"), "$._type"),
        ("an unknown member", changed("predicate.approved", True), "$.predicate.approved: is not known here"),
        ("a missing member", changed("predicate.role", ...), "$.predicate.role: is missing"),
        ("no comment", changed("predicate.comment", ...), "$.predicate.comment: is missing"),
        ("no subject", changed("subject", []), "$.subject"),
        ("two subjects", changed("subject", json.loads(VECTOR)["subject"] * 2), "$.subject"),
        ("a second digest", changed("subject.0.digest.sha512", "00"), "$.subject[0].digest.sha512"),
        ("a time with a fraction", changed("predicate.issued", "2026-11-22T12:00:00.5Z"), "$.predicate.issued"),
        ("a local time", changed("predicate.issued", "2026-11-22T12:00:00+02:00"), "$.predicate.issued"),
        ("a time without zone", changed("predicate.issued", "2026-11-22T12:00:00"), "$.predicate.issued"),
        ("a time as a number", changed("predicate.issued", 1795348800), "$.predicate.issued"),
        ("a day that is none", changed("predicate.issued", "2026-02-30T12:00:00Z"), "$.predicate.issued"),
        ("an end before the start", changed("predicate.expires", "2020-01-01T00:00:00Z"), "must expire after"),
        ("white space", VECTOR + b"\n", "canonical"),
        ("members in another order", json.dumps(dict(reversed(json.loads(VECTOR).items()))).encode(), "canonical"),
        ("a duplicate member", VECTOR[:-1] + b',"_type":"https://in-toto.io/Statement/v1"}', "is listed twice"),
        ("an escape that need not be", VECTOR.replace(b"worker", b"\\u0077orker"), "canonical"),
        ("too much", VECTOR + b" " * MAX_STATEMENT, "more than the 65536 allowed"),
        ("half of it", VECTOR[:100], "is not JSON"),
        ("not UTF-8", b"\xff" + VECTOR, "is not UTF-8"),
        ("nothing", b"", "is not JSON"),
        ("a list", b"[]", "$"),
        ("depth", b"[" * 30000, "nested too deeply"),
    ],
)
def test_anything_but_the_canonical_endorsement_is_refused(what: str, data: bytes, says: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_endorsement(data)
    assert says in str(caught.value)
    assert str(caught.value).startswith("endorsement: $")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.tuples(st.sampled_from(["_type", "subject", "predicateType", "predicate.issued", "predicate.role"]), JSON).map(
        lambda change: json.dumps(json.loads(VECTOR) | {change[0]: change[1]}).encode()
    )
    | st.tuples(st.integers(0, len(VECTOR) - 1), st.integers(0, 255)).map(
        lambda flip: VECTOR[: flip[0]] + bytes([flip[1]]) + VECTOR[flip[0] + 1 :]
    )
)
def test_any_bytes_are_read_exactly_or_refused_with_a_place(data: bytes) -> None:
    try:
        statement = parse_endorsement(data)
    except DocumentError as exc:
        assert exc.path.startswith("$")  # noqa: PT017 - whichever of the two comes is right
    else:
        assert canonical(statement) == data


SAFE = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=60)
INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001 - hypothesis wants them bare
    lambda moment: moment.replace(microsecond=0)
)


@settings(deadline=None)
@given(INSTANTS, st.integers(1, 10**8), SAFE, st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True))
def test_every_valid_endorsement_survives_the_journey(issued: datetime, seconds: int, comment: str, role: str) -> None:
    data = make(issued=issued, expires=issued + timedelta(seconds=seconds), comment=comment, role=role)
    says = parse_endorsement(data).predicate
    assert (says.issued, says.comment, says.role) == (issued, comment, role)
    assert says.expires - says.issued == timedelta(seconds=seconds)
