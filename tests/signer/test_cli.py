"""The key commands, as a person and as a program uses them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from signer.cli import key_app, read_passphrase
from signer.errors import KeyUnusable
from signer.openpgp.keyring import Keyring
from signer.openpgp.keys import SignerSettings
from signer.openpgp.verifier import read_keys
from signer.runtime.settings import Settings, load_settings
from tests.support.commands import CliRunner
from tests.support.openpgp_people import FORGED, People


class Keys:
    """The `key` commands on one home."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, *args: str) -> Result:
        """Run a command; our own errors are raised, as they are for the real command line."""
        settings = Settings({"signer": SignerSettings(home=self.home)})
        result = CliRunner().invoke(key_app, list(args), obj=settings)
        if isinstance(result.exception, KeyUnusable):
            raise result.exception
        return result

    def json(self, *args: str) -> Any:
        """Run with --json."""
        result = self.run(*args, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def test_a_key_is_made_listed_and_exported(keys: Keys, tmp_path: Path) -> None:
    made = keys.json("new", "STAR images <images@star.example>", "--expires", "90d")
    fingerprint = made["fingerprint"]
    (listed,) = keys.json("list")
    assert (listed["fingerprint"], listed["secret"], listed["usable"]) == (fingerprint, True, True)
    assert listed["user_ids"] == ["STAR images <images@star.example>"]
    assert fingerprint in keys.run("list").stdout
    exported = keys.json("export", fingerprint)
    assert read_keys(exported["key"].encode())[0].fingerprint == fingerprint
    printed = keys.run("export", fingerprint.lower()).stdout
    assert read_keys(printed.encode())[0].fingerprint == fingerprint
    file = tmp_path / "star.asc"
    assert keys.json("export", fingerprint, "-o", str(file)) == {"fingerprint": fingerprint, "file": str(file)}
    assert read_keys(file.read_bytes())[0].fingerprint == fingerprint


def test_quiet_without_a_terminal(keys: Keys) -> None:
    result = keys.run("new", "Ada")
    assert len(result.stdout.strip()) == 40
    assert result.stderr == ""


def test_a_key_may_last_for_ever(keys: Keys) -> None:
    keys.json("new", "Ada", "--expires", "never")
    (listed,) = keys.json("list")
    assert (listed["expires"], listed["state"]) == (None, "never expires")


def test_a_key_is_imported(keys: Keys, people: People, tmp_path: Path) -> None:
    (tmp_path / "painter.gpg").write_bytes(people.public["painter"])
    assert keys.json("import", str(tmp_path / "painter.gpg")) == {"fingerprints": [people.fingerprints["painter"]]}
    shown = keys.run("list").stdout
    assert "\\x9b31mPaint\\u202eer" in shown
    assert "\x9b" not in shown
    assert "\u202e" not in shown


def test_nothing_is_listed_where_nothing_is(keys: Keys) -> None:
    assert keys.json("list") == []
    assert not keys.home.exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("export", FORGED), "no keys yet; make one with `partita key new`"),
        (("export", "Ada"), "is not a valid fingerprint"),
        (("import", "/nonexistent/key.asc"), "key.asc: cannot be read: No such file"),
        (("new", "Ada", "--passphrase-file", "/nonexistent/pass"), "the passphrase cannot be read: No such file"),
        (("new", "Ada", "--algorithm", "rot13"), "is not a supported algorithm"),
        (("new", "Ada\x07"), "a user id is plain text"),
    ],
)
def test_what_cannot_be_done_is_said(keys: Keys, args: tuple[str, ...], says: str) -> None:
    with pytest.raises(KeyUnusable, match=says):
        keys.run(*args)


def test_a_span_that_is_none_is_a_mistake_of_usage(keys: Keys) -> None:
    result = keys.run("new", "Ada", "--expires", "soon")
    assert result.exit_code == 2
    assert "is not a duration such as" in result.output
    assert not keys.home.exists()


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 1025, b"\xff\xfe"])
def test_a_passphrase_file_that_cannot_serve_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pass").write_bytes(content)
    with pytest.raises(KeyUnusable, match="passphrase"):
        read_passphrase(tmp_path / "pass")


def test_the_first_line_is_the_passphrase(tmp_path: Path, keys: Keys) -> None:
    (tmp_path / "pass").write_text("correct horse\nbattery\n")
    assert read_passphrase(tmp_path / "pass") == "correct horse"
    assert read_passphrase(None) == ""
    made = keys.json("new", "Ada", "--passphrase-file", str(tmp_path / "pass"))
    assert Keyring(keys.home).sign(b"x", made["fingerprint"], passphrase="correct horse")


def test_the_home_is_a_setting(tmp_path: Path) -> None:
    environ = {"PARTITA_SIGNER_HOME": str(tmp_path / "mine")}
    settings = load_settings({"signer": SignerSettings}, file=tmp_path / "none.toml", environ=environ)
    assert settings.section(SignerSettings).home == tmp_path / "mine"
    assert settings.origins["signer.home"] == "environment PARTITA_SIGNER_HOME"
