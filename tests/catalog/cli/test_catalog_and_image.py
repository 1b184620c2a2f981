"""The commands as users type them: register, serve, endorse, publish, list, fetch, check; each with --json."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

import partita
from catalog.errors import CatalogError, Conflict, ContentMismatch, Misused, NotEntitled, NotFound, Unavailable
from signer.errors import KeyUnusable, SettingsError
from tests.support import commands
from tests.support.catalog.service_process import Vo
from tests.support.commands import CliRunner
from tests.support.factories import bundle

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Desk:
    """A machine with a catalog's directory and someone's keys; `run` types a command on it."""

    root: Path
    star: Vo

    def run(self, *words: str) -> Result:
        """The command's end, with the settings of this desk."""
        settings = (
            "--set", f"signer.home={self.star.keyring.home}", "--set", f"catalog.directory={self.root / 'catalog'}",
        )  # fmt: skip
        return CliRunner().invoke(partita.app, [*settings, *words])

    def json(self, *words: str) -> Any:
        """What a command that succeeds prints with --json."""
        ended = self.run(*words, "--json")
        assert ended.exit_code == 0, repr(ended.exception)
        return json.loads(ended.stdout)

    def fails(self, kind: type[Exception], *words: str) -> str:
        """The sentence of a command that fails."""
        ended = self.run(*words)
        assert type(ended.exception) is kind, repr(ended.exception)
        return str(ended.exception)

    def key(self) -> str:
        """A file with the public key."""
        path = self.root / "star.asc"
        path.write_bytes(self.star.keyring.export(self.star.fingerprint))
        return str(path)


@pytest.fixture
def desk(tmp_path: Path, star: Vo) -> Desk:
    """A desk without a service."""
    return Desk(tmp_path, star)


@pytest.fixture
def url(desk: Desk) -> Iterator[str]:
    """A service started by its command, and ended as an operator ends it."""
    ready, output, errors = (desk.root / name for name in ("ready", "output", "errors"))
    process = commands.start(
        output, errors, "--set", "catalog.tuf_bits=6", "catalog", "serve", "--directory", desk.root / "catalog",
        "--listen", "127.0.0.1:0", "--ready-file", ready, "--json",
    )  # fmt: skip
    try:
        while not ready.exists():
            assert process.is_alive(), errors.read_text()
            time.sleep(0.02)
        yield ready.read_text().strip()
    finally:
        process.terminate()
        process.join(30)
    assert process.exitcode == 0, errors.read_text()
    assert json.loads(output.read_text())["url"] == ready.read_text().strip()
    assert "Traceback" not in errors.read_text()


def test_the_journey_of_an_image(desk: Desk, url: str) -> None:
    """From a directory to a catalog and back, by commands alone."""
    image = str(bundle(desk.root / "image", partitions=1).root)
    fingerprint = desk.star.fingerprint
    assert desk.json("vo", "register", "star", "--key", desk.key())["fingerprints"] == [fingerprint]
    assert desk.json("vo", "list") == [
        {"vo": "star", "keys": [{"fingerprint": fingerprint, "role": "image-administrator"}]}
    ]
    endorsed = desk.json("endorse", image, "--key", fingerprint, "--days", "30", "--comment", "built on Sunday")
    assert Path(endorsed["statement"]).with_suffix(".sig").is_file()
    published = desk.json("publish", image, "--catalog", url)
    assert published["image_id"] == endorsed["image_id"]
    assert desk.json("publish", image, "--catalog", url)["sent"] == 0
    (listed,) = desk.json("image", "list", "--catalog", url, "--vo", "star")
    assert (listed["image_id"], listed["version"]) == (published["image_id"], "1.0")
    assert desk.json("image", "list", "--catalog", url, "--vo", "atlas") == []
    fetched = desk.json("image", "fetch", "star/worker", "-o", str(desk.root / "fetched"), "--catalog", url)
    assert fetched["image_id"] == published["image_id"]
    assert len(desk.json("catalog", "check")["checked"]) == 2
    assert desk.json("catalog", "migrate")["migrated"] is False
    assert desk.json("vo", "remove-key", "star", fingerprint)["fingerprint"] == fingerprint
    assert desk.json("vo", "list") == [{"vo": "star", "keys": []}]
    assert "no registered key here" in desk.fails(NotEntitled, "publish", image, "--catalog", url)


def test_texts_for_people(desk: Desk, url: str) -> None:
    """Without --json every command says in words what it did."""
    image = str(bundle(desk.root / "image", partitions=1).root)
    fingerprint = desk.star.fingerprint
    for words, said in (
        (("vo", "register", "star", "--key", desk.key()), f"star may publish what {fingerprint} endorses"),
        (("vo", "list"), fingerprint),
        (("endorse", image, "--key", fingerprint), "star/worker@1.0 is endorsed until"),
        (("publish", image, "--catalog", url), "star/worker@1.0 is published at"),
        (("image", "list", "--catalog", url), "star/worker@1.0"),
        (("image", "fetch", "star/worker", "-o", str(desk.root / "f"), "--catalog", url), "star/worker@1.0 is in"),
        (("catalog", "check"), "2 contents are intact"),
        (("catalog", "migrate"), "is already at"),
        (("vo", "remove-key", "star", fingerprint), "may no longer publish for star"),
        (("vo", "list"), "(none)"),
    ):
        ended = desk.run(*words)
        assert ended.exit_code == 0, repr(ended.exception)
        assert said in ended.stdout


def test_a_damaged_catalog_fails_its_check(desk: Desk, url: str) -> None:
    """With what is damaged, and a code that scripts see."""
    image = bundle(desk.root / "image", partitions=1)
    desk.json("vo", "register", "star", "--key", desk.key())
    desk.json("endorse", str(image.root), "--key", desk.star.fingerprint)
    desk.json("publish", str(image.root), "--catalog", url)
    damaged = image.manifest.contents()[0]
    path = desk.root / "catalog" / "blobs" / str(damaged)[:2] / str(damaged)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"damage")
    ended = desk.run("catalog", "check", "--json")
    assert isinstance(ended.exception, ContentMismatch)
    assert json.loads(ended.stdout)["lost"] == [str(damaged)]


def test_commands_that_cannot_be_done(desk: Desk) -> None:
    """Each says what to do instead."""
    image = str(bundle(desk.root / "image", partitions=1).root)
    nobody = "http://127.0.0.1:9"
    (desk.root / "not-a-key").write_text("hello")
    table: list[tuple[type[Exception], tuple[str, ...], str]] = [
        (NotFound, ("publish", str(desk.root)), "contains no manifest.json"),
        (Misused, ("publish", image, "--catalog", nobody), "run `partita endorse`"),
        (Unavailable, ("image", "list", "--catalog", nobody), "cannot be reached"),
        (Misused, ("image", "fetch", "worker", "-o", str(desk.root / "x"), "--catalog", nobody), "is not a valid image reference"),
        (Misused, ("vo", "register", "star", "--key", str(desk.root / "no-file")), "cannot be read"),
        (KeyUnusable, ("vo", "register", "star", "--key", str(desk.root / "not-a-key")), ""),
        (Misused, ("vo", "register", "No Such Name", "--key", desk.key()), "is not a valid VO name"),
        (NotFound, ("vo", "remove-key", "star", "A" * 40), "is not a registered key of star"),
        (KeyUnusable, ("endorse", image, "--key", "A" * 40), "no key AAAA"),
        (SettingsError, ("--set", "catalog.listen=nowhere", "catalog", "check"), "catalog.listen"),
        (Misused, ("catalog", "serve", "--listen", "nowhere"), "ADDRESS:PORT"),
        (Misused, ("catalog", "serve", "--listen", "127.0.0.1:99999"), "port"),
    ]  # fmt: skip
    for kind, words, said in table:
        assert said in desk.fails(kind, *words), words
    assert not (desk.root / "x").exists()


def test_a_second_service_on_one_address_is_refused(desk: Desk, url: str) -> None:
    """And a second one on one directory."""
    where = url.removeprefix("http://")
    said = desk.fails(Unavailable, "catalog", "serve", "--directory", str(desk.root / "other"), "--listen", where)
    assert "cannot listen" in said
    assert "another catalog serves it" in desk.fails(Unavailable, "catalog", "serve", "--listen", "127.0.0.1:0")


def test_exit_codes_tell_kinds_apart(desk: Desk) -> None:
    """As the whole program ends, with one sentence on standard error."""
    environment = os.environ | {"PARTITA_CATALOG_URL": "http://127.0.0.1:9"}
    ended = subprocess.run(
        [sys.executable, "-m", "partita", "image", "list"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (Unavailable.exit_code, "")
    assert ended.stderr.startswith("partita: http://127.0.0.1:9: cannot be reached")
    assert ended.stderr.count("\n") == 1
    codes = {
        kind: kind.exit_code for kind in (CatalogError, Conflict, Misused, NotEntitled, ContentMismatch, Unavailable)
    }
    assert codes == {CatalogError: 1, Conflict: 1, Misused: 2, NotEntitled: 3, ContentMismatch: 4, Unavailable: 5}
