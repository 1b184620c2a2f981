"""Real keys, real signatures, real gpg: what counts as a good signature, and what is left behind."""

import subprocess
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import gnupg
import pytest

from signer.errors import KeyUnusable, SignatureError
from signer.openpgp.gpg import MAX_KEY
from signer.openpgp.status_lines import SKEW
from signer.openpgp.verifier import OpenPgpExaminer, examine, read_keys
from tests.support.openpgp_people import People, processes_naming

DATA = b'{"what":"was signed"}'
Make = Callable[[People], bytes]


def sign(*names: str) -> Make:
    """A file of one signature by each, in order."""
    return lambda people: b"".join(people.sign(name, DATA) for name in names)


def subkey(*names: str) -> Make:
    """A file of one signature by each of those very subkeys."""
    return lambda people: b"".join(people.sign(people.fingerprints[name] + "!", DATA) for name in names)


def made(name: str, *options: str, later: timedelta = timedelta()) -> Make:
    """A signature made with these options, at another time than now."""
    return lambda people: people.sign(name, DATA, *options, at=people.now + later)


def over_other_bytes(people: People) -> bytes:
    return people.sign("ann", DATA + b"\n")


def lapsing(people: People) -> bytes:
    """A signature that expires by itself after a day, made two days ago."""
    return people.sign("ann", DATA, "--default-sig-expire", "1d", "--detach-sign", at=people.now - timedelta(days=2))


def at_their_time(name: str) -> Make:
    """A signature made while the key was still good."""
    return lambda people: people.sign(name, DATA, at=people.now - timedelta(days=800))


def by_stale_subkey(people: People) -> bytes:
    return people.sign(people.fingerprints["stale"] + "!", DATA, at=people.now - timedelta(days=363))


def by_outliving_subkey(people: People) -> bytes:
    return people.sign(people.fingerprints["outlives"] + "!", DATA, at=people.now - timedelta(days=800))


def by_revoked_before(people: People) -> bytes:
    """A signature from before the revocation: whoever stole the key can date it so."""
    return _unrevoked(people)


def _unrevoked(people: People) -> bytes:
    """gpg does not sign with a revoked key, so it signs in a home that has not heard of it."""
    with tempfile.TemporaryDirectory(prefix="keys-") as home:
        other = People(Path(home), people.now, dict(people.fingerprints))
        other.home.chmod(0o700)
        (other.home / "private-keys-v1.d").mkdir(mode=0o700)
        for key in (people.home / "private-keys-v1.d").iterdir():
            (other.home / "private-keys-v1.d" / key.name).write_bytes(key.read_bytes())
        other.gpg("--import", data=_without_revocations(people.public["revoked"]))
        try:
            return other.sign("revoked", DATA, at=people.now - timedelta(days=100))
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def _without_revocations(key: bytes) -> bytes:
    """The packets of a key without signatures of class 0x20 (RFC 4880, section 5.2.1)."""
    kept, at = b"", 0
    while at < len(key):
        octets = 1 << (key[at] & 3)
        end = at + 1 + octets + int.from_bytes(key[at + 1 : at + 1 + octets])
        is_revocation = key[at] >> 2 & 15 == 2 and key[at + 1 + octets + 1] == 0x20
        kept, at = kept + (b"" if is_revocation else key[at:end]), end
    return kept


GOOD = ""
TABLE: list[tuple[str, Make, list[tuple[str, str]]]] = [
    # facts of python-gnupg and gpg that this table turns round: see docs/trust-model.md
    ("an allowed key", sign("ann"), [("ann", GOOD)]),
    ("another key that is merely in the keyring signs in its own name", sign("bob"), [("bob", GOOD)]),
    ("an unknown key", sign("eve"), [("", "not among the allowed")]),
    ("an expired key, signed while it was good", at_their_time("expired"), [("", "key has expired")]),
    ("a revoked key, signed before the revocation", by_revoked_before, [("", "key was revoked")]),
    ("unknown, then allowed", sign("eve", "ann"), [("", "not among"), ("ann", GOOD)]),
    ("allowed, then unknown", sign("ann", "eve"), [("ann", GOOD), ("", "not among")]),
    ("revoked, then allowed", lambda p: _unrevoked(p) + p.sign("ann", DATA), [("", "revoked"), ("ann", GOOD)]),
    ("allowed, then revoked", lambda p: p.sign("ann", DATA) + _unrevoked(p), [("ann", GOOD), ("", "revoked")]),
    ("expired, then allowed", lambda p: at_their_time("expired")(p) + sign("ann")(p), [("", "expired"), ("ann", GOOD)]),
    ("allowed, then expired", lambda p: sign("ann")(p) + at_their_time("expired")(p), [("ann", GOOD), ("", "expired")]),
    ("wrong data", over_other_bytes, [("", "other bytes")]),
    ("wrong data, then allowed", lambda p: over_other_bytes(p) + sign("ann")(p), [("", "other bytes"), ("ann", GOOD)]),
    ("two allowed keys", sign("ann", "bob"), [("ann", GOOD), ("bob", GOOD)]),
    ("one key twice", sign("ann", "ann"), [("ann", GOOD), ("ann", GOOD)]),
    ("SHA-1", made("rsa", "--digest-algo", "SHA1", "--detach-sign"), [("rsa", "hash algorithm 2")]),
    ("SHA-224", made("rsa", "--digest-algo", "SHA224", "--detach-sign"), [("rsa", "hash algorithm 11")]),
    ("SHA-512", made("rsa", "--digest-algo", "SHA512", "--detach-sign"), [("rsa", GOOD)]),
    ("a text signature", made("ann", "--textmode", "--detach-sign"), [("ann", "class 01")]),
    ("an hour in the future", made("ann", later=timedelta(hours=1)), [("ann", "in the future")]),
    ("a little in the future", made("ann", later=SKEW), [("ann", GOOD)]),
    (
        "older than its key",
        made("ann", "--ignore-time-conflict", "--detach-sign", later=timedelta(days=-500)),
        [("", "older than its key")],
    ),
    ("a signature that expired", lapsing, [("", "signature has expired")]),
    ("a subkey counts for its primary", subkey("first"), [("subkeys", GOOD)]),
    ("two subkeys of one primary", subkey("first", "second"), [("subkeys", GOOD), ("subkeys", GOOD)]),
    ("a subkey that expired", by_stale_subkey, [("", "key has expired")]),
    ("a subkey that outlives its primary", by_outliving_subkey, [("", "expired")]),
    ("a user id that forges status lines", sign("forger"), [("forger", GOOD)]),
    ("a user id that paints the terminal", sign("painter"), [("painter", GOOD)]),
]
ALLOWED = ("ann", "bob", "expired", "revoked", "rsa", "subkeys", "ends", "forger", "painter")


@pytest.mark.parametrize(("what", "make", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_each_signature_is_judged_by_itself(
    people: People, what: str, make: Make, expected: list[tuple[str, str]]
) -> None:
    checks = examine(DATA, make(people), [people.public[name] for name in ALLOWED], people.now)
    assert len(checks) == len(expected)
    for check, (name, reason) in zip(checks, expected, strict=True):
        assert check.good == (reason == GOOD), check
        assert reason in check.reason
        assert check.fingerprint == people.fingerprints.get(name, "")


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("a clearsigned message", made("ann", "--clearsign")),
        ("a signed message", made("ann", "--sign", "--compress-algo", "none")),
        ("a compressed signed message", made("ann", "--sign")),
        ("an armoured signature", made("ann", "--armor", "--detach-sign")),
        ("a signed message behind a signature", lambda p: sign("ann")(p) + p.sign("ann", DATA, "--sign")),
        ("a public key", lambda p: p.public["ann"]),
        ("the data itself", lambda _: DATA),
        ("random bytes", lambda _: bytes(range(200, 256)) * 20),
        ("half a signature", lambda p: sign("ann")(p)[:50]),
        ("nothing", lambda _: b""),
        ("over 64 KiB", lambda p: sign("ann")(p) * 600),
        ("nine signatures", lambda p: sign("ann")(p) * 9),
    ],
)
def test_what_is_no_binary_detached_signature_is_refused(people: People, what: str, make: Make) -> None:
    with pytest.raises(SignatureError):
        examine(DATA, make(people), [people.public["ann"]], people.now)


def test_a_flipped_bit_anywhere_never_makes_a_good_signature(people: People) -> None:
    signature = sign("ann")(people)
    with OpenPgpExaminer([people.public["ann"]]) as examiner:
        for at in range(0, len(signature), 5):
            broken = bytearray(signature)
            broken[at] ^= 1 << at % 8
            try:
                checks = examiner.examine(DATA, bytes(broken), people.now)
            except SignatureError:
                continue
            # The unhashed part of a signature is not signed: a change there is harmless, and the signer stays Ann.
            assert all(not check.good or check.fingerprint == people.fingerprints["ann"] for check in checks)


def test_the_forging_user_id_really_fools_line_readers(people: People, tmp_path: Path) -> None:
    """Python-gnupg's own readers take the forged lines for gpg's: so the rows above prove something."""
    (tmp_path / "data").write_bytes(DATA)
    (tmp_path / "sig").write_bytes(sign("forger")(people))
    heard: list[str] = []

    class Listening(gnupg.Verify):  # type: ignore[misc]
        def handle_status(self, key: str, value: str) -> None:
            heard.append(f"{key} {value}")

    with tempfile.TemporaryDirectory() as home:
        gpg = gnupg.GPG(gnupghome=home, options=["--no-autostart"])
        gpg.import_keys(people.public["forger"])
        gpg.result_map = gpg.result_map | {"verify": Listening}
        gpg.verify_file(str(tmp_path / "sig"), data_filename=str(tmp_path / "data"))
    victim = people.fingerprints["ann"]
    assert any(line.startswith(f"VALIDSIG {victim}") for line in heard)


def test_user_ids_are_shown_escaped(people: People) -> None:
    (painter,) = read_keys(people.public["painter"])
    assert painter.user_ids == ("\\x9b31mPaint\\u202eer <p@evil.example>",)
    (forger,) = read_keys(people.public["forger"])
    assert forger.fingerprint == people.fingerprints["forger"]
    assert forger.user_ids[0].startswith("Fred\\x85[GNUPG:] NEWSIG\\x85[GNUPG:] GOODSIG")
    assert all(name.isprintable() for name in forger.user_ids)


def test_time_is_the_callers(people: People) -> None:
    signature = people.sign("expired", DATA, at=people.now - timedelta(days=800))
    keys = [people.public["expired"]]
    assert examine(DATA, signature, keys, people.now - timedelta(days=790))[0].good
    assert not examine(DATA, signature, keys, people.now)[0].good
    ours = sign("ann")(people)
    assert examine(DATA, ours, [people.public["ann"]], people.now)[0].good
    assert not examine(DATA, ours, [people.public["ann"]], people.now + timedelta(days=3650))[0].good
    assert not examine(DATA, ours, [people.public["ann"]], people.now - timedelta(days=100))[0].good


def test_a_key_just_made_by_a_clock_ahead_counts(people: People) -> None:
    ahead = people.now + timedelta(minutes=4)
    with tempfile.TemporaryDirectory(prefix="keys-") as home:
        there = People(Path(home), ahead)
        there.gpg("--quick-generate-key", "--", "Ada", "ed25519", "sign", "1y", at=ahead)
        key = there.gpg("--export", at=ahead)
        signature = there.gpg("--detach-sign", data=DATA, at=ahead)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    (check,) = examine(DATA, signature, [key], people.now)
    assert check.good


def test_no_key_allowed_means_no(people: People) -> None:
    with pytest.raises(KeyUnusable, match="no signature can count"):
        examine(DATA, sign("ann")(people), [], people.now)


@pytest.mark.parametrize(
    ("what", "key", "says"),
    [
        ("nothing", b"", "no OpenPGP public key"),
        ("text", b"this is my key", "no OpenPGP public key"),
        ("broken armour", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDME\n-----END", "no OpenPGP public key"),
        ("too much", bytes(MAX_KEY + 1), "more than the 1048576 allowed"),
    ],
)
def test_what_is_no_key_is_refused(what: str, key: bytes, says: str) -> None:
    with pytest.raises(KeyUnusable, match=says):
        read_keys(key)


def test_a_private_key_is_refused_as_anchor(people: People) -> None:
    private = people.gpg("--export-secret-keys", people.fingerprints["ann"])
    with pytest.raises(KeyUnusable, match="holds a private key"):
        read_keys(private)


def test_an_examination_leaves_nothing_and_touches_nothing(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "home" / "gnupg"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with OpenPgpExaminer([people.public["ann"]]) as examiner:
        (private,) = (tmp_path / "tmp").iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
        assert examiner.examine(DATA, sign("ann")(people), people.now)[0].good
    with pytest.raises(KeyUnusable):
        read_keys(b"nothing")
    assert list((tmp_path / "home").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert processes_naming(str(tmp_path)) == []


def test_a_flooded_key_is_read_without_its_flood(people: People) -> None:
    """Anybody may append signatures to a key; only the owner's own are kept, and the key stays good."""
    with tempfile.TemporaryDirectory(prefix="keys-") as home:
        there = People(Path(home), people.now)
        there.gpg("--import", data=people.public["ann"])
        for number in range(3):
            there.make(f"{number}", f"Flooder {number} <f{number}@evil.example>", at=people.now)
            there.gpg("--default-key", there.fingerprints[f"{number}"], "--quick-sign-key", people.fingerprints["ann"])
        flooded = there.gpg("--export", people.fingerprints["ann"])
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    assert len(flooded) > len(people.public["ann"]) + 300
    with OpenPgpExaminer([flooded]) as examiner:
        assert examiner.examine(DATA, sign("ann")(people), people.now)[0].good
        assert len(examiner._gpg.run(["--export"]).data) == len(people.public["ann"])
