"""The user's own keys: made, listed, exported, used, and refused."""

import subprocess
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pytest

from signer.errors import KeyUnusable
from signer.openpgp.keyring import Keyring
from signer.openpgp.verifier import examine
from tests.support.openpgp_people import FORGED, People, processes_naming

DATA = b'{"what":"was signed"}'


class TestKeyring:
    """One's own keys."""

    def test_a_key_is_made_listed_exported_and_used(self, tmp_path: Path, people: People) -> None:
        keyring = Keyring(tmp_path / ("a-long-name-" * 12) / "keys")
        assert keyring.keys() == []
        fingerprint = keyring.generate("STAR images <images@star.example>", lifetime=timedelta(days=90), now=people.now)
        (key,) = keyring.keys()
        assert (key.fingerprint, key.secret) == (fingerprint, True)
        assert key.user_ids == ("STAR images <images@star.example>",)
        assert (key.primary.created, key.primary.expires) == (people.now, people.now + timedelta(days=90))
        signature = keyring.sign(DATA, fingerprint, now=people.now)
        (check,) = examine(DATA, signature, [keyring.export(fingerprint)], people.now)
        assert (check.good, check.fingerprint, check.made) == (True, fingerprint, people.now)
        assert keyring.home.stat().st_mode & 0o777 == 0o700

    def test_no_agent_survives(self, tmp_path: Path) -> None:
        keyring = Keyring(tmp_path / "keys")
        fingerprint = keyring.generate("Ada")
        keyring.sign(DATA, fingerprint)
        with pytest.raises(KeyUnusable):
            keyring.sign(DATA, FORGED)
        assert not (keyring.home / "S.gpg-agent").exists()
        deadline = time.monotonic() + 60
        while processes_naming(str(keyring.home)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert processes_naming(str(keyring.home)) == []

    def test_stock_gpg_accepts_what_we_sign(self, tmp_path: Path) -> None:
        keyring = Keyring(tmp_path / "keys")
        fingerprint = keyring.generate("Ada", algorithm="rsa3072")
        (tmp_path / "s").write_bytes(DATA)
        (tmp_path / "s.sig").write_bytes(keyring.sign(DATA, fingerprint))
        with tempfile.TemporaryDirectory() as home:
            gpg = ["gpg", "--homedir", home, "--batch", "--no-autostart", "--status-fd", "1"]
            subprocess.run([*gpg, "--import"], input=keyring.export(fingerprint), check=True, capture_output=True)
            done = subprocess.run(
                [*gpg, "--verify", "s.sig", "s"], cwd=tmp_path, check=True, capture_output=True, text=True
            )
        assert f"[GNUPG:] VALIDSIG {fingerprint}" in done.stdout

    def test_a_passphrase_protects(self, tmp_path: Path) -> None:
        keyring = Keyring(tmp_path / "keys")
        fingerprint = keyring.generate("Ada", passphrase="correct horse")
        assert keyring.sign(DATA, fingerprint, passphrase="correct horse")
        with pytest.raises(KeyUnusable, match="passphrase is wrong"):
            keyring.sign(DATA, fingerprint, passphrase="battery staple")
        with pytest.raises(KeyUnusable, match="give --passphrase-file"):
            keyring.sign(DATA, fingerprint)

    def test_strangers_keys_are_kept_as_public(self, tmp_path: Path, people: People) -> None:
        keyring = Keyring(tmp_path / "keys")
        assert keyring.import_keys(people.public["ann"]) == [people.fingerprints["ann"]]
        (key,) = keyring.keys()
        assert not key.secret
        with pytest.raises(KeyUnusable, match="private part of the key"):
            keyring.sign(DATA, key.fingerprint)

    def test_only_usable_keys_sign(self, people: People) -> None:
        keyring = Keyring(people.home)
        for name, says in (("expired", "expired"), ("revoked", "revoked")):
            with pytest.raises(KeyUnusable, match=says):
                keyring.sign(DATA, people.fingerprints[name])
        kept = keyring.keys()
        states = {key.fingerprint: key.unusable_reason(people.now) for key in kept}
        assert states[people.fingerprints["ann"]] == ""
        assert states[people.fingerprints["revoked"]] == "was revoked"
        assert states[people.fingerprints["expired"]].startswith("expired on")

    @pytest.mark.parametrize(
        ("user_id", "algorithm", "says"),
        [
            ("", "ed25519", "a user id is plain text"),
            ("   ", "ed25519", "a user id is plain text"),
            ("x" * 201, "ed25519", "a user id is plain text"),
            ("Ada\n%commit", "ed25519", "a user id is plain text"),
            ("\x1b[31mAda", "ed25519", "a user id is plain text"),
            ("Ada", "dsa1024", "is not a supported algorithm"),
        ],
    )
    def test_odd_keys_are_not_made(self, tmp_path: Path, user_id: str, algorithm: str, says: str) -> None:
        with pytest.raises(KeyUnusable, match=says):
            Keyring(tmp_path / "keys").generate(user_id, algorithm=algorithm)
        assert list(tmp_path.iterdir()) == []

    def test_missing_keys_are_said_to_be_missing(self, tmp_path: Path, people: People) -> None:
        empty = Keyring(tmp_path / "keys")
        for attempt in (lambda: empty.export(FORGED), lambda: empty.sign(DATA, FORGED)):
            with pytest.raises(KeyUnusable, match="no keys yet"):
                attempt()
        full = Keyring(people.home)
        for attempt in (lambda: full.export(FORGED), lambda: full.sign(DATA, FORGED)):
            with pytest.raises(KeyUnusable, match=f"no key {FORGED}"):
                attempt()

    def test_a_place_that_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(KeyUnusable, match="cannot be used for keys"):
            Keyring(tmp_path / "file").generate("Ada")
