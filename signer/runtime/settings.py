"""Settings: defaults, then the TOML file, then the environment, then flags; the origin of each value is kept.

A section is a Document whose fields all have defaults. The file has one table per section; the environment variable of
a field is PARTITA_<SECTION>_<FIELD>; a flag is `--set section.field=value`. Unknown names are errors, wherever they are.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from signer.documents import Document, read_toml, validate
from signer.errors import DocumentError, SettingsError

PREFIX = "PARTITA_"
RESERVED = frozenset({"PARTITA_CONFIG"})
S = TypeVar("S", bound=Document)


def default_file() -> Path:
    """Return the path of the settings file: PARTITA_CONFIG, else in /etc/partita for root and the XDG directory for others."""
    if named := os.environ.get("PARTITA_CONFIG"):
        return Path(named)
    base = Path("/etc/partita") if os.geteuid() == 0 else platformdirs.user_config_path("partita")
    return base / "partita.toml"


def state_directory(part: str) -> Path:
    """Return a service's default state directory: /var/lib/partita/PART for root, in the XDG data directory for others."""
    base = Path("/var/lib/partita") if os.geteuid() == 0 else platformdirs.user_data_path("partita")
    return base / part


@dataclass(frozen=True)
class Settings:
    """All sections, and for each `section.field` where its value was set."""

    sections: Mapping[str, Document]
    origins: Mapping[str, str] = field(default_factory=dict)

    def section(self, model: type[S]) -> S:
        """Return the section of the given type."""
        return next(value for value in self.sections.values() if isinstance(value, model))


def load_settings(
    models: Mapping[str, type[Document]],
    *,
    file: Path,
    environ: Mapping[str, str],
    flags: Sequence[str] = (),
    required: bool = False,
) -> Settings:
    """Read the settings.

    Args:
        models: section name to its type.
        file: the TOML file; absent means empty, unless `required`.
        environ: the process's environment.
        flags: `section.field=value` texts.
        required: whether an absent file is an error (it was named on the command line).

    Raises:
        SettingsError: an unknown section or field, an unusable value, or an unreadable file; names the origin.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in models}
    origins = {f"{name}.{key}": "default" for name, model in models.items() for key in model.model_fields}

    def put(section: str, key: str, value: object, origin: str) -> None:
        if section not in models or key not in models[section].model_fields:
            known = ", ".join(sorted(models[section].model_fields if section in models else models))
            raise SettingsError(f"{origin}: unknown setting {section}.{key}; known here: {known}")
        values[section][key] = value
        origins[f"{section}.{key}"] = origin

    for section, table in _table(file, required=required).items():
        if not isinstance(table, dict):
            raise SettingsError(
                f"{file}: {section} is not a table; write settings in tables such as [{next(iter(models))}]"
            )
        for key, value in table.items():
            put(section, key, value, str(file))
    for variable, text in sorted(environ.items()):
        if variable.startswith(PREFIX) and variable not in RESERVED:
            section, _, key = variable.removeprefix(PREFIX).lower().partition("_")
            put(section, key, _typed(models, section, key, text), f"environment {variable}")
    for flag in flags:
        name, equals, text = flag.partition("=")
        section, dot, key = name.partition(".")
        if not (equals and dot):
            raise SettingsError(f"--set {flag}: write it as section.field=value")
        put(section, key, _typed(models, section, key, text), f"--set {name}")

    sections = {}
    for name, model in models.items():
        try:
            sections[name] = validate(model, values[name], "settings")
        except DocumentError as exc:
            key = f"{name}{exc.path.removeprefix('$')}"
            raise SettingsError(f"{origins.get(key, file)}: {key}: {exc.reason}") from exc
    return Settings(sections, origins)


def _table(file: Path, *, required: bool) -> dict[str, Any]:
    try:
        return read_toml(file.read_bytes(), str(file))
    except FileNotFoundError as exc:
        if required:
            raise SettingsError(f"{file}: the settings file does not exist") from exc
        return {}
    except OSError as exc:
        raise SettingsError(f"{file}: cannot be read: {exc.strerror}") from exc
    except DocumentError as exc:
        raise SettingsError(str(exc)) from exc


def _typed(models: Mapping[str, type[Document]], section: str, key: str, text: str) -> object:
    """Convert a text from the environment or a flag to the type of its field; other types are left to validation."""
    known = models[section].model_fields.get(key) if section in models else None
    wants = known.annotation if known else str
    if wants is bool and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if wants is int and text.lstrip("-").isdigit():
        return int(text)
    if wants in (list[str], tuple[str, ...]):
        return [part for part in text.split(",") if part]
    return text
