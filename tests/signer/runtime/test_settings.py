"""Settings: later origins win, unknown names are errors, every value knows where it came from."""

from pathlib import Path

import pytest

from signer.documents import Document
from signer.errors import SettingsError
from signer.runtime.settings import Settings, default_file, load_settings, state_directory


class Site(Document):
    """A section."""

    url: str = "http://127.0.0.1:1"
    port: int = 1
    strict: bool = True
    peers: tuple[str, ...] = ()


class Store(Document):
    """Another section."""

    directory: Path = Path("/var/lib/x")


MODELS = {"site": Site, "store": Store}


def read(tmp_path: Path, toml: str = "", environ: dict[str, str] | None = None, *flags: str) -> Settings:
    file = tmp_path / "settings.toml"
    file.write_text(toml)
    return load_settings(MODELS, file=file, environ=environ or {}, flags=flags)


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    settings = load_settings(MODELS, file=tmp_path / "none.toml", environ={"HOME": "/x"})
    assert settings.section(Site) == Site()
    assert settings.section(Store) == Store()
    assert set(settings.origins.values()) == {"default"}


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    toml = '[site]\nurl = "http://file"\nport = 2\nstrict = false\n'
    environ = {"PARTITA_SITE_URL": "http://environment", "PARTITA_SITE_PORT": "3"}
    settings = read(tmp_path, toml, environ, "site.port=4")
    assert settings.section(Site) == Site(url="http://environment", port=4, strict=False)
    file = str(tmp_path / "settings.toml")
    assert settings.origins == {
        "site.url": "environment PARTITA_SITE_URL",
        "site.port": "--set site.port",
        "site.strict": file,
        "site.peers": "default",
        "store.directory": "default",
    }


def test_texts_become_what_their_fields_want(tmp_path: Path) -> None:
    environ = {
        "PARTITA_SITE_STRICT": "False",
        "PARTITA_SITE_PEERS": "a,b",
        "PARTITA_STORE_DIRECTORY": "/srv",
        "PARTITA_CONFIG": "ignored here",
    }
    settings = read(tmp_path, "", environ)
    assert settings.section(Site) == Site(strict=False, peers=("a", "b"))
    assert settings.section(Store).directory == Path("/srv")


@pytest.mark.parametrize(
    ("what", "toml", "environ", "flags", "says"),
    [
        (
            "an unknown section",
            "[sight]\nx = 1",
            {},
            (),
            "settings.toml: unknown setting sight.x; known here: site",
        ),
        (
            "an unknown field",
            "[site]\nport_number = 1",
            {},
            (),
            "unknown setting site.port_number; known here: peers, port",
        ),
        ("a value without a section", "port = 1", {}, (), "port is not a table"),
        ("a wrong type", '[site]\nport = "1"', {}, (), "settings.toml: site.port: .*integer"),
        ("broken TOML", "[site\n", {}, (), "is not TOML"),
        (
            "an unknown variable",
            "",
            {"PARTITA_SITE_PROT": "1"},
            (),
            "environment PARTITA_SITE_PROT: unknown setting",
        ),
        ("an unusable variable", "", {"PARTITA_SITE_PORT": "one"}, (), "environment PARTITA_SITE_PORT: site.port"),
        ("a variable without a field", "", {"PARTITA_SITE": "1"}, (), "unknown setting site."),
        ("an unknown flag", "", {}, ("site.prot=1",), "--set site.prot: unknown setting"),
        ("an unusable flag", "", {}, ("site.strict=perhaps",), "--set site.strict: site.strict"),
        ("a flag without a value", "", {}, ("site.port",), "write it as section.field=value"),
        ("a flag without a section", "", {}, ("port=1",), "write it as section.field=value"),
    ],
)
def test_mistakes_name_their_origin(
    tmp_path: Path, what: str, toml: str, environ: dict[str, str], flags: tuple[str, ...], says: str
) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        read(tmp_path, toml, environ, *flags)
    assert caught.value.exit_code == 2


def test_a_file_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="settings file does not exist"):
        load_settings(MODELS, file=tmp_path / "none.toml", environ={}, required=True)
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(MODELS, file=tmp_path, environ={})


def test_places_depend_on_who_runs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PARTITA_CONFIG", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_file() == Path("/etc/partita/partita.toml")
    assert state_directory("keys") == Path("/var/lib/partita/keys")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert state_directory("keys") == tmp_path / "partita" / "keys"
    assert default_file() == tmp_path / "partita" / "partita.toml"
    monkeypatch.setenv("PARTITA_CONFIG", "/x/y.toml")
    assert default_file() == Path("/x/y.toml")
