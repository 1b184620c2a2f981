"""A signature is good only if its own group of status lines says so, in full."""

from datetime import UTC, datetime, timedelta

import pytest

from signer.errors import SignatureError
from signer.openpgp.keys import Key, Subkey
from signer.openpgp.status_lines import SKEW, check_signature

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
BORN = NOW - timedelta(days=30)
ANN, SUB = "A" * 40, "5" * 40
KEYS = {ANN: Key(Subkey(ANN, BORN, None, False, True), subkeys=(Subkey(SUB, BORN, None, False, True),))}
GOOD = f"GOODSIG {ANN[:16]} Ann"


def valid(
    *,
    signer: str = ANN,
    primary: str = ANN,
    made: datetime = NOW,
    expires: str = "0",
    digest: int = 8,
    kind: str = "00",
) -> str:
    return f"VALIDSIG {signer} 2026-11-22 {int(made.timestamp())} {expires} 4 0 22 {digest} {kind} {primary}"


def lines(*texts: str) -> list[tuple[str, str]]:
    return [(text.partition(" ")[0], text.partition(" ")[2]) for text in texts]


def test_a_whole_group_is_good() -> None:
    check = check_signature(lines("NEWSIG", "KEY_CONSIDERED x 0", GOOD, valid(), "TRUST_NEVER"), KEYS, NOW)
    assert (check.good, check.fingerprint, check.signer, check.made) == (True, ANN, ANN, NOW)
    assert check.reason == ""


@pytest.mark.parametrize("digest", [8, 9, 10])
def test_strong_hashes_count(digest: int) -> None:
    assert check_signature(lines("NEWSIG", GOOD, valid(digest=digest)), KEYS, NOW).good


def test_a_subkey_counts_for_its_primary() -> None:
    check = check_signature(lines("NEWSIG", GOOD, valid(signer=SUB)), KEYS, NOW)
    assert (check.good, check.fingerprint, check.signer) == (True, ANN, SUB)


@pytest.mark.parametrize(
    ("what", "group", "says"),
    [
        ("nothing", [], "both good and valid"),
        ("good but not valid", [GOOD], "both good and valid"),
        ("valid but not good", [valid()], "both good and valid"),
        ("good twice", [GOOD, GOOD, valid()], "both good and valid"),
        ("valid twice", [GOOD, valid(), valid()], "both good and valid"),
        ("an expired signature", ["EXPSIG 0 Ann", valid()], "has expired"),
        ("an expired key", ["EXPKEYSIG 0 Ann", valid()], "key has expired"),
        ("a revoked key", ["REVKEYSIG 0 Ann", valid()], "was revoked"),
        ("other bytes", ["BADSIG 0 Ann"], "other bytes"),
        ("an unknown key", ["ERRSIG 0 22 8 00 1 9", "NO_PUBKEY 0"], "not among the allowed"),
        ("an unknown algorithm", ["ERRSIG 0 99 8 00 1 4 -"], "algorithm is not supported"),
        ("a signature older than its key", ["ERRSIG 0 22 8 00 1 39 -"], "older than its key"),
        ("an error of another kind", ["ERRSIG 0 22"], "gpg cannot check it"),
        ("good, then bad", [GOOD, "BADSIG 0 Ann", valid()], "other bytes"),
        ("bad, then good", ["REVKEYSIG 0 Ann", GOOD, valid()], "was revoked"),
        ("a stranger's key", [GOOD, valid(signer="B" * 40, primary="B" * 40)], "not among the allowed"),
        ("a stranger's subkey", [GOOD, valid(signer="B" * 40)], "not among the allowed"),
        ("a key of version 5", [GOOD, valid(primary="A" * 64)], "version 4"),
        ("a key id", [GOOD, valid(primary="A" * 16)], "version 4"),
        ("no primary key", [GOOD, valid().rpartition(" ")[0]], "both good and valid"),
        ("lower case", [GOOD, valid(primary="a" * 40)], "both good and valid"),
        ("MD5", [GOOD, valid(digest=1)], "hash algorithm 1"),
        ("SHA-1", [GOOD, valid(digest=2)], "hash algorithm 2"),
        ("RIPEMD-160", [GOOD, valid(digest=3)], "hash algorithm 3"),
        ("SHA-224", [GOOD, valid(digest=11)], "hash algorithm 11"),
        ("a text signature", [GOOD, valid(kind="01")], "class 01"),
        ("a stand-alone signature", [GOOD, valid(kind="02")], "class 02"),
        ("a key signature", [GOOD, valid(kind="10")], "class 10"),
        ("from the future", [GOOD, valid(made=NOW + SKEW + timedelta(seconds=1))], "in the future"),
        ("older than its key", [GOOD, valid(made=BORN - timedelta(seconds=1))], "older than its key"),
        ("expired by our clock", [GOOD, valid(expires=str(int(NOW.timestamp())))], "has expired"),
        (
            "a time that is none",
            [GOOD, valid().replace(str(int(NOW.timestamp())), "20261122T120000")],
            "good and valid",
        ),
    ],
)
def test_a_group_that_says_less_is_not_good(what: str, group: list[str], says: str) -> None:
    check = check_signature(lines("NEWSIG", *group), KEYS, NOW)
    assert not check.good
    assert says in check.reason


@pytest.mark.parametrize(
    ("what", "part", "says"),
    [
        ("a key that expired", {"expires": NOW}, "expired on 2026-11-22"),
        ("a revoked key", {"revoked": True}, "was revoked"),
        ("a key for other uses", {"signs": False}, "not made for signing"),
    ],
)
def test_the_key_itself_is_judged_by_the_callers_time(what: str, part: dict[str, object], says: str) -> None:
    values: dict[str, object] = {"fingerprint": ANN, "created": BORN, "expires": None, "revoked": False, "signs": True}
    keys = {ANN: Key(Subkey(**(values | part)))}  # type: ignore[arg-type]
    check = check_signature(lines("NEWSIG", GOOD, valid()), keys, NOW)
    assert not check.good
    assert says in check.reason


def test_a_clock_five_minutes_ahead_is_forgiven() -> None:
    assert check_signature(lines("NEWSIG", GOOD, valid(made=NOW + SKEW)), KEYS, NOW).good


@pytest.mark.parametrize(
    ("what", "said", "says"),
    [
        ("silence", [], "reported on 0 signatures"),
        ("one too many", ["NEWSIG", GOOD, valid(), "NEWSIG", GOOD, valid()], "reported on 2 signatures"),
        ("an outcome before any signature", [GOOD, valid()], "out of order"),
        ("no data", ["NODATA 4"], "not a detached signature"),
        ("unexpected data after a good one", ["NEWSIG", GOOD, valid(), "UNEXPECTED 0"], "not a detached signature"),
    ],
)
def test_a_report_that_cannot_be_assigned_is_refused(what: str, said: list[str], says: str) -> None:
    with pytest.raises(SignatureError, match=says):
        check_signature(lines(*said), KEYS, NOW)
