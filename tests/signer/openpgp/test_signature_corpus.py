"""The signature corpus: files of every kind, judged by us and by a second implementation, Sequoia's `sqv`.

Where the two disagree, nothing may count: whatever we accept sqv accepts as well, and what sqv alone accepts is in a list
here, each with the rule of ours that refuses it. A disagreement that is not in the list fails.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from signer.errors import SignatureError
from signer.openpgp.status_lines import SKEW
from signer.openpgp.verifier import OpenPgpExaminer
from tests.signer.openpgp.test_verifier import ALLOWED, DATA, TABLE, Make, made, sign, subkey
from tests.support.openpgp_people import People

pytestmark = pytest.mark.skipif(shutil.which("sqv") is None, reason="sqv is not installed (apt-get install sqv)")

FLIPS = 24
CUTS = 8


def _flipped(part: int) -> Make:
    """Ann's signature with one bit flipped, at one of FLIPS places spread over it."""

    def make(people: People) -> bytes:
        data = bytearray(people.sign("ann", DATA))
        data[len(data) * part // FLIPS] ^= 1 << part % 8
        return bytes(data)

    return make


def _cut(part: int) -> Make:
    """Ann's signature, its end missing."""

    def make(people: People) -> bytes:
        data = people.sign("ann", DATA)
        return data[: len(data) * part // CUTS]

    return make


def _changed(change: Callable[[bytes], bytes], *names: str) -> Make:
    return lambda people: change(sign(*(names or ("ann",)))(people))


CORPUS: dict[str, Make] = {
    **{what: make for what, make, _ in TABLE},
    **{f"bit flipped in part {part} of {FLIPS}": _flipped(part) for part in range(FLIPS)},
    **{f"cut to {part} of {CUTS} parts": _cut(part) for part in range(CUTS)},
    "good, bad, good": lambda p: p.sign("ann", DATA) + p.sign("ann", DATA + b"!") + p.sign("bob", DATA),
    "bad, good, bad": lambda p: p.sign("ann", DATA + b"!") + p.sign("bob", DATA) + p.sign("eve", DATA),
    "unknown, unknown, allowed": sign("eve", "eve", "bob"),
    "eight signatures": sign(*["ann"] * 8),
    "nine signatures": sign(*["ann"] * 9),
    "armour": made("ann", "--armor", "--detach-sign"),
    "a clearsigned message": made("ann", "--clearsign"),
    "an inline message": made("ann", "--sign"),
    "an inline message, not compressed": made("ann", "--sign", "-z", "0"),
    "bytes behind it": _changed(lambda data: data + b"behind"),
    "bytes before it": _changed(lambda data: b"before" + data),
    "a key behind it": lambda p: p.sign("ann", DATA) + p.public["ann"],
    "a key alone": lambda p: p.public["ann"],
    "zeros": lambda _: bytes(200),
    "more than the limit": _changed(lambda data: data * (1 + (64 << 10) // len(data))),
    "a packet of version 3": _changed(lambda data: data[:2] + b"\x03" + data[3:]),
    "RIPEMD-160": made("rsa", "--digest-algo", "RIPEMD160", "--detach-sign"),
    "SHA-384": made("rsa", "--digest-algo", "SHA384", "--detach-sign"),
    "a day in the future": made("ann", later=timedelta(days=1)),
    "of yesterday": made("ann", later=timedelta(days=-1)),
    "both subkeys and the primary of another": lambda p: subkey("first", "second")(p) + sign("bob")(p),
}

STRICTER = {
    "an expired key, signed while it was good": "an expired key counts for nothing: its thief can date back",
    "expired, then allowed": "the same",
    "allowed, then expired": "the same",
    "a subkey that expired": "the same",
    "a subkey that outlives its primary": "the same",
    "a text signature": "only signatures over the very bytes count",
    "armour": "one form of the file: binary packets",
    "nine signatures": "at most eight in a file",
    "a clearsigned message": "detached signatures only",
    "more than the limit": "at most 64 KiB",
    "SHA-224": "SHA-256 at least",
}
"""What sqv accepts and we do not, with our reason."""


@pytest.fixture(scope="module")
def examiner(people: People) -> Iterator[OpenPgpExaminer]:
    """Ours, with the allowed keys."""
    with OpenPgpExaminer([people.public[name] for name in ALLOWED]) as found:
        yield found


@pytest.fixture(scope="module")
def owners(people: People) -> dict[str, str]:
    """Primary fingerprint of each key and subkey."""
    of = {"first": "subkeys", "second": "subkeys", "stale": "subkeys", "outlives": "ends"}
    return {found: people.fingerprints[of.get(name, name)] for name, found in people.fingerprints.items()}


def _ours(examiner: OpenPgpExaminer, people: People, signature: bytes) -> set[str]:
    try:
        return {check.fingerprint for check in examiner.examine(DATA, signature, people.now) if check.good}
    except SignatureError:
        return set()


def _theirs(people: People, owners: dict[str, str], signature: bytes, root: Path) -> set[str]:
    (root / "keys").write_bytes(b"".join(people.public[name] for name in ALLOWED))
    (root / "data").write_bytes(DATA)
    (root / "data.sig").write_bytes(signature)
    latest = (
        f"{people.now + SKEW:%Y-%m-%dT%H:%M:%SZ}"  # our tolerance for clocks that are ahead; sqv has none of its own
    )
    command = ["sqv", "--not-after", latest, "--keyring", "keys", "data.sig", "data"]
    ended = subprocess.run(command, cwd=root, capture_output=True, check=False, timeout=60)
    if ended.returncode:
        return set()
    return {owners[line] for line in ended.stdout.decode().split()}


@pytest.mark.parametrize("what", CORPUS)
def test_what_we_accept_a_second_implementation_accepts(
    people: People, examiner: OpenPgpExaminer, owners: dict[str, str], tmp_path: Path, what: str
) -> None:
    signature = CORPUS[what](people)
    ours, theirs = _ours(examiner, people, signature), _theirs(people, owners, signature, tmp_path)
    assert ours <= theirs, "we accept what sqv does not"
    assert (theirs - ours != set()) == (what in STRICTER), "sqv accepts what we do not, or no longer does"


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= 60
    assert set(STRICTER) <= set(CORPUS)
