"""The file of issuers: what it may say and what is refused."""

from pathlib import Path

import pytest

from deployer.errors import PolicyUnusable
from deployer.site.auth.issuers import Issuers

STAR = "https://tokens.star.example.org/"


GOOD_FILE = f"""
[[issuer]]
issuer = "{STAR}"
vo = "star"
max_lifetime = "1h"
"""


def test_the_issuers_file(tmp_path: Path) -> None:
    file = tmp_path / "issuers.toml"
    assert Issuers.load(file).issuer == ()
    file.write_text(GOOD_FILE)
    (found,) = Issuers.load(file).issuer
    assert (found.vo, found.max_lifetime, found.algorithms) == ("star", 3600, ("RS256", "ES256"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("issuer = 1", r"\$\.issuer"),
        (GOOD_FILE + "keys = 'x'\n", "is not known here"),
        (GOOD_FILE + GOOD_FILE, "is listed twice"),
        (GOOD_FILE.replace("https", "http"), "is not an issuer"),
        (GOOD_FILE.replace("org/", "org/?a=b"), "is not an issuer"),
        (GOOD_FILE.replace("https://", "https://user@"), "is not an issuer"),
        (GOOD_FILE + "algorithms = ['HS256']\n", "algorithms"),
        (GOOD_FILE + "algorithms = ['none']\n", "algorithms"),
        (GOOD_FILE + "algorithms = []\n", "algorithms"),
        (GOOD_FILE + "profiles = []\n", "profiles"),
        (GOOD_FILE.replace('vo = "star"', ""), "vo: is missing"),
    ],
)
def test_issuers_files_that_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "issuers.toml"
    file.write_text(text)
    with pytest.raises(PolicyUnusable, match=reason) as caught:
        Issuers.load(file)
    assert str(file) in str(caught.value)


def test_an_issuers_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PolicyUnusable, match="cannot be read"):
        Issuers.load(tmp_path)
