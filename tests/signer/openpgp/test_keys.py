"""Fingerprints and time spans as people type them."""

import pytest

from signer.errors import KeyUnusable
from signer.openpgp.keys import normalize_fingerprint
from tests.support.openpgp_people import People


def test_fingerprints_are_read_as_people_type_them(people: People) -> None:
    fingerprint = people.fingerprints["ann"]
    spaced = " ".join(fingerprint[at : at + 4] for at in range(0, 40, 4))
    assert {normalize_fingerprint(text) for text in (fingerprint, spaced.lower(), f"openpgp:{fingerprint}")} == {
        fingerprint
    }
    for text in (fingerprint[-16:], "Ann <ann@star.example>", fingerprint + "0", "", "0x" + fingerprint, "é" * 40):
        with pytest.raises(KeyUnusable, match="is not a valid fingerprint"):
            normalize_fingerprint(text)
