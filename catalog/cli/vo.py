"""`partita vo`: register VOs and their keys with a catalog, on the machine where it runs."""

import re
from pathlib import Path
from typing import Annotated

import typer

from catalog.cli.options import Directory, catalog_settings, writing
from catalog.errors import Misused, NotFound
from catalog.image.manifest import VO_PATTERN
from signer.openpgp.gpg import MAX_KEY
from signer.openpgp.verifier import read_keys
from signer.runtime import files, terminal
from signer.runtime.clock import current_second
from signer.verification.endorsements import DEFAULT_ROLE
from signer.verification.trust import Anchor, scheme_of
from signer.x509.certificates import read_certificate

vo_app = typer.Typer(name="vo", help="Register VOs with a catalog, on the machine where it runs.", no_args_is_help=True)


@vo_app.command("register")
def register(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The VO's name, such as star.")],
    key: Annotated[
        list[Path], typer.Option("--key", help="File with a public key that may endorse its images; repeatable.")
    ],
    role: Annotated[str, typer.Option(help="The role of the keys' holders in the VO.")] = DEFAULT_ROLE,
    directory: Directory = None,
) -> None:
    """Register a VO and the keys that may endorse its images. Run it again to add keys or to change their role."""
    from catalog.db import images

    if not re.fullmatch(VO_PATTERN, name):
        raise Misused(f"{name!r} is not a valid VO name; use lower-case letters, digits, dots and dashes")
    anchors = [anchor for file in key for anchor in _read_anchors(name, role, file)]
    with writing(context, directory) as connection:
        images.register_vo(connection, name, current_second())
        for anchor in anchors:
            images.register_key(connection, anchor, current_second())
        keys = [f"{anchor.scheme}:{anchor.fingerprint}" for anchor in anchors]
        _record(context, directory, name, keys, "registered", role)
    fingerprints = [anchor.fingerprint for anchor in anchors]
    shown = f"{name} may publish what {', '.join(fingerprints)} endorses as {role}"
    terminal.show({"vo": name, "role": role, "fingerprints": fingerprints}, shown)


@vo_app.command("list")
def list_vos(context: typer.Context, directory: Directory = None) -> None:
    """List the registered VOs and their keys."""
    from catalog.db import images
    from catalog.publication.state_directory import open_database

    with open_database(catalog_settings(context, directory).directory) as database, database.reading() as connection:
        vos = images.list_vos(connection, "", limit=-1)
        found = {vo.name: images.list_anchors(connection, vo.name) for vo in vos}
    rows = [[vo, anchor.fingerprint, anchor.role] for vo, anchors in found.items() for anchor in anchors]
    rows += [[vo, "(none)", ""] for vo, anchors in found.items() if not anchors]
    value = [
        {"vo": vo, "keys": [{"fingerprint": a.fingerprint, "role": a.role} for a in anchors]}
        for vo, anchors in found.items()
    ]
    terminal.show(value, terminal.table(["VO", "KEY", "ROLE"], rows))


@vo_app.command("remove-key")
def remove_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The VO's name.")],
    fingerprint: Annotated[str, typer.Argument(help="The key's fingerprint, as `vo list` shows it.")],
    directory: Directory = None,
) -> None:
    """Remove a key of a VO. Published images stay; sites decide by their own anchors."""
    from catalog.db import images
    from signer.openpgp.keys import normalize_fingerprint

    key = fingerprint if fingerprint.startswith("/") else normalize_fingerprint(fingerprint)
    with writing(context, directory) as connection:
        if not images.remove_key(connection, name, key):
            raise NotFound(f"{key} is not a registered key of {name}; `partita vo list` shows the registered keys")
        _record(context, directory, name, [f"{scheme_of(key)}:{key}"], "removed")
    terminal.show({"vo": name, "fingerprint": key}, f"{key} may no longer publish for {name}")


def _record(
    context: typer.Context, directory: Path | None, vo: str, keys: list[str], done: str, role: str = ""
) -> None:
    """Record in the catalog's history whose endorsements it accepts from now on."""
    from catalog.publication.history import VO, History

    with History(catalog_settings(context, directory).directory, current_second()) as history:
        for key in keys:
            facts = {"title": vo, "endorser": key, "done": done} | ({"role": role} if role else {})
            history.record(VO, facts, current_second())


def _read_anchors(vo: str, role: str, file: Path) -> list[Anchor]:
    data = files.read_bounded(file, MAX_KEY, Misused)
    if b"-----BEGIN CERTIFICATE-----" in data:
        return [Anchor(vo, role, read_certificate(data).subject, data, "x509")]
    return [Anchor(vo, role, key.fingerprint, data) for key in read_keys(data)]
