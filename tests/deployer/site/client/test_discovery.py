"""Which site commands talk to, and what they show it: the places where a bearer token is looked for, in their order."""

import os
from pathlib import Path

import pytest

from catalog.errors import Misused
from deployer.errors import SiteUnavailable
from deployer.site.client.discovery import MAX_TOKEN_FILE, discover_token, open_site_client
from deployer.site.settings import SiteSettings

ME = os.geteuid()


def write(place: Path, text: str) -> Path:
    """A file."""
    place.parent.mkdir(exist_ok=True)
    place.write_text(text)
    return place


def test_the_first_place_that_has_a_token_counts(tmp_path: Path) -> None:
    """BEARER_TOKEN, then its file, then the runtime directory, then /tmp (WLCG Bearer Token Discovery)."""
    runtime, tmp = tmp_path / "run", tmp_path / "tmp"
    named = write(tmp_path / "named", "from-file\n")
    write(runtime / f"bt_u{ME}", " from-runtime \n")
    write(tmp / f"bt_u{ME}", "from-tmp")
    environ = {"BEARER_TOKEN": "from-variable", "BEARER_TOKEN_FILE": str(named), "XDG_RUNTIME_DIR": str(runtime)}
    for name, token in (
        ("BEARER_TOKEN", "from-variable"),
        ("BEARER_TOKEN_FILE", "from-file"),
        ("XDG_RUNTIME_DIR", "from-runtime"),
    ):
        assert discover_token(environ, ME, tmp) == token
        del environ[name]
    assert discover_token(environ, ME, tmp) == "from-tmp"
    (tmp / f"bt_u{ME}").unlink()
    assert discover_token(environ, ME, tmp) == ""


def test_a_place_that_was_named_must_hold_one(tmp_path: Path) -> None:
    """What is named and cannot be used is an error, never the next place; no message shows a token."""
    secret = "ey" + "s3cr3t" * 3
    for about, environ in (
        ("two words", {"BEARER_TOKEN": f"{secret} {secret}"}),
        ("a line break", {"BEARER_TOKEN": f"{secret}\r\nX-Other: 1"}),
        ("no such file", {"BEARER_TOKEN_FILE": str(tmp_path / "none")}),
        ("an empty file", {"BEARER_TOKEN_FILE": str(write(tmp_path / "empty", "\n"))}),
        ("far too long", {"BEARER_TOKEN_FILE": str(write(tmp_path / "long", "x" * (MAX_TOKEN_FILE + 1)))}),
        ("no ASCII", {"BEARER_TOKEN_FILE": str(write(tmp_path / "snow", "\N{SNOWMAN}"))}),
    ):
        with pytest.raises(Misused) as refused:
            discover_token(environ, ME, tmp_path)
        assert secret not in str(refused.value), about


def test_a_file_of_somebody_else_is_not_shown(tmp_path: Path) -> None:
    """Whoever may write to /tmp could make us act in their name."""
    file = write(tmp_path / "bt_u4711", "theirs")
    if file.stat().st_uid == 0:
        os.chown(file, 4712, -1)
    with pytest.raises(Misused, match="another user"):
        discover_token({}, 4711, tmp_path)


def test_a_token_is_not_shown_in_the_clear(tmp_path: Path) -> None:
    """Without https it is refused before anything is sent."""
    settings = SiteSettings(directory=tmp_path, url="http://127.0.0.1:9")
    with pytest.raises(Misused, match="over https only"):
        open_site_client(settings, {"BEARER_TOKEN": "x"})


def test_nobody_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    """For the socket, and for a URL; a CA that is none is said, too."""
    with (
        open_site_client(SiteSettings(directory=tmp_path), {}) as client,
        pytest.raises(SiteUnavailable, match="site serve"),
    ):
        client.status()
    with (
        open_site_client(SiteSettings(directory=tmp_path), {}, "https://127.0.0.1:9") as client,
        pytest.raises(SiteUnavailable, match="does not answer"),
    ):
        client.status()
    ca = write(tmp_path / "ca.pem", "no certificate")
    with pytest.raises(Misused, match="not a PEM certificate"):
        open_site_client(SiteSettings(directory=tmp_path, url="https://127.0.0.1:9", ca=ca), {})
    with pytest.raises(Misused, match="cannot be used as a client"):
        open_site_client(SiteSettings(directory=tmp_path, url="https://127.0.0.1:9", client_certificate=ca), {})
