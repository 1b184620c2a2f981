"""The settings of a site: what they are when nobody says, and what is refused where it is said."""

from pathlib import Path

import pytest

from deployer.site.settings import SiteSettings
from partita import SECTIONS
from signer.errors import SettingsError
from signer.runtime.settings import load_settings


def settings(tmp_path: Path, *flags: str, **environ: str) -> SiteSettings:
    """As a command would have them."""
    variables = {f"PARTITA_SITE_{name.upper()}": value for name, value in environ.items()}
    found = load_settings(SECTIONS, file=tmp_path / "none.toml", environ=variables, flags=flags)
    return found.section(SiteSettings)


def test_places_follow_the_directory(tmp_path: Path) -> None:
    """Database, root and socket are in it, unless they are named."""
    found = settings(tmp_path, directory=str(tmp_path))
    assert found.database_url == f"sqlite:///{tmp_path}/site.db"
    assert found.pinned_root == tmp_path / "freshness" / "root.json"
    other = settings(tmp_path, "site.database=postgresql+psycopg:///site", f"site.tuf_root={tmp_path}/r.json")
    assert other.database_url == "postgresql+psycopg:///site"
    assert other.pinned_root == tmp_path / "r.json"


def test_names_come_with_commas(tmp_path: Path) -> None:
    """From the environment and from flags."""
    assert settings(tmp_path, names="a.example.org,10.0.0.1").names == ("a.example.org", "10.0.0.1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "everywhere"),
        ("listen", "127.0.0.1"),
        ("url", "site.example.org"),
        ("names", "a b"),
        ("names", "*.example.org"),
        ("catalog", "ftp://catalog"),
        ("network", "token-ring"),
        ("lifetime", "long"),
        ("lost_after", "-1s"),
        ("lost_machines", "sell"),
        ("overcommit_cores", "0"),
        ("overcommit_memory", "1000"),
        ("broker_listen", "7444"),
        ("broker_url", "guests"),
        ("sudo", "yes"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_origin(tmp_path: Path, name: str, value: str) -> None:
    """Before anything is opened."""
    with pytest.raises(SettingsError, match=rf"--set site\.{name}|site\.{name}"):
        settings(tmp_path, f"site.{name}={value}")
