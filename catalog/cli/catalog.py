"""The commands around a catalog: serve it, register VOs, endorse and publish images, list and fetch them."""

import dataclasses
import hashlib
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.cli.access import open_, restrict, site_app
from catalog.cli.image import image_app
from catalog.cli.torrent import torrent
from catalog.client import transfer
from catalog.client.client import CatalogClient
from catalog.client.credential_file import read_credential
from catalog.errors import ContentMismatch, Misused, NotFound
from catalog.image.bundle import Bundle
from catalog.image.manifest import VO_PATTERN
from catalog.image.reference import Reference
from catalog.settings import CatalogSettings
from signer.cli import CertificateFile, CertificateKeyFile, OwnKey, PassphraseFile, choose_signer
from signer.documents import validate
from signer.errors import DocumentError
from signer.openpgp.gpg import MAX_KEY
from signer.openpgp.verifier import read_keys
from signer.runtime import files, terminal
from signer.runtime.log_config import LogSettings, configure_logging
from signer.runtime.settings import state_directory
from signer.runtime.terminal import Json
from signer.statements.endorsement import write_instant
from signer.verification.endorsements import DEFAULT_ROLE, ENDORSEMENT_LIFETIME, endorse_as, endorse_partition
from signer.verification.trust import Anchor, scheme_of
from signer.x509.certificates import read_certificate

if TYPE_CHECKING:
    from catalog.client.trusted import TrustedCatalog

catalog_app = typer.Typer(
    name="catalog", help="Run a catalog: the service that images are published to.", no_args_is_help=True
)
vo_app = typer.Typer(name="vo", help="Register VOs with a catalog, on the machine where it runs.", no_args_is_help=True)

catalog_app.add_typer(site_app, name="site")
image_app.command("restrict")(restrict)
image_app.command("open")(open_)
image_app.command("torrent")(torrent)

Directory = Annotated[
    Path | None, typer.Option("--directory", help="The catalog's directory; else the setting catalog.directory.")
]
Url = Annotated[str | None, typer.Option("--catalog", help="URL of the catalog; else the setting catalog.url.")]
Image = Annotated[Path, typer.Argument(help="An image directory that `image import` or `image build` made.")]


@catalog_app.command("serve")
def serve(
    context: typer.Context,
    directory: Directory = None,
    listen: Annotated[
        str | None, typer.Option(help="ADDRESS:PORT; port 0 takes a free one. Else the setting catalog.listen.")
    ] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Written with the URL when requests are answered.")] = None,
    as_json: Json = False,
) -> None:
    """Serve the catalog until interrupted; brings the database to its newest shape and recovers from any crash first."""
    # The service is imported where it runs: publishers and nodes do without its libraries.
    from catalog.service.daemon import serve

    settings = _settings(context, directory)
    if listen is not None:
        try:
            settings = validate(CatalogSettings, settings.model_dump() | {"listen": listen}, "--listen")
        except DocumentError as exc:
            raise Misused(f"--listen {listen}: write it as ADDRESS:PORT, such as 127.0.0.1:7070") from exc
    configure_logging(terminal.section(context, LogSettings))

    def ready(url: str, recovery: Any) -> None:
        found = {name: len(items) for name, items in dataclasses.asdict(recovery).items() if items}
        report = "".join(f"; {name} {count}" for name, count in found.items())
        terminal.show(
            {"url": url, "directory": str(settings.directory)} | found,
            f"catalog ready at {url}{report}",
            as_json=as_json,
        )
        if ready_file is not None:
            files.write(ready_file, f"{url}\n", sync=None)

    serve(settings, ready)


@catalog_app.command("migrate")
def migrate(context: typer.Context, directory: Directory = None, as_json: Json = False) -> None:
    """Bring the database to its newest shape; `serve` does the same when it starts."""
    from catalog.db.migrations import HEAD
    from catalog.publication.state_directory import open_database

    database = open_database(_settings(context, directory).directory)
    database.close()
    done = "migrated to" if database.migrated else "is already at"
    terminal.show({"revision": HEAD, "migrated": database.migrated}, f"{database.path} {done} {HEAD}", as_json=as_json)


@catalog_app.command("check")
def check(context: typer.Context, directory: Directory = None, as_json: Json = False) -> None:
    """Read every content again and compare it with its address; changes nothing, and may run beside the service."""
    from catalog.publication.state_directory import check_contents

    settings = _settings(context, directory)
    with terminal.progress("checking", None) as advance:
        report = check_contents(settings.directory, advance)
    rows = [[name, item] for name in ("lost", "quarantined") for item in getattr(report, name)]
    summary = f"{len(report.checked)} contents are right"
    terminal.show(
        dataclasses.asdict(report), terminal.table(["FOUND", "WHAT"], rows) if rows else summary, as_json=as_json
    )
    if rows:
        raise ContentMismatch(
            f"{settings.directory}: {len(report.lost)} contents are lost or altered and {len(report.quarantined)} files are "
            "unexplained; start the service, which puts them aside, and publish what is lost again"
        )


@catalog_app.command("history")
def history(context: typer.Context, catalog: Url = None, as_json: Json = False) -> None:
    """List every publication, endorsement and revocation that a catalog ever accepted, and check that none was changed."""
    with _client(context, catalog) as client:
        found = list(client.history())
    rows = [
        (
            entry.seq,
            write_instant(entry.at),
            entry.kind,
            *(entry.data.get(key, "") for key in ("title", "endorser", "role")),
        )
        for entry in found
    ]
    terminal.show(
        [entry.model_dump(mode="json") for entry in found],
        terminal.table(["ENTRY", "WHEN", "WHAT", "IMAGE", "BY", "ROLE"], rows),
        as_json=as_json,
    )


@vo_app.command("register")
def register(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The VO's name, such as star.")],
    key: Annotated[
        list[Path], typer.Option("--key", help="File with a public key that may endorse its images; repeatable.")
    ],
    role: Annotated[str, typer.Option(help="The role of the keys' holders in the VO.")] = DEFAULT_ROLE,
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Let a VO publish what these keys endorse; again with other keys or another role to add or change them."""
    from catalog.db import images as registry
    from catalog.publication.state_directory import open_database

    if not re.fullmatch(VO_PATTERN, name):
        raise Misused(f"{name!r} is no name of a VO; use lower-case letters, digits, dots and dashes")
    anchors = [anchor for file in key for anchor in _anchors(name, role, file)]
    database, now = open_database(_settings(context, directory).directory), _now()
    try:
        with database.writing() as connection:
            registry.register_vo(connection, name, now)
            for anchor in anchors:
                registry.register_key(connection, anchor, now)
            _tell(
                context,
                directory,
                name,
                [f"{anchor.scheme}:{anchor.fingerprint}" for anchor in anchors],
                "registered",
                role,
            )
    finally:
        database.close()
    fingerprints = [anchor.fingerprint for anchor in anchors]
    shown = f"{name} may publish what {', '.join(fingerprints)} endorses as {role}"
    terminal.show({"vo": name, "role": role, "fingerprints": fingerprints}, shown, as_json=as_json)


@vo_app.command("list")
def list_vos(context: typer.Context, directory: Directory = None, as_json: Json = False) -> None:
    """List the registered VOs and their keys."""
    from catalog.db import images as registry
    from catalog.publication.state_directory import open_database

    database = open_database(_settings(context, directory).directory)
    try:
        with database.reading() as connection:
            vos = registry.list_vos(connection, "", limit=-1)
            found = {vo.name: registry.list_anchors(connection, vo.name) for vo in vos}
    finally:
        database.close()
    rows = [[vo, anchor.fingerprint, anchor.role] for vo, anchors in found.items() for anchor in anchors]
    rows += [[vo, "(none)", ""] for vo, anchors in found.items() if not anchors]
    value = [
        {"vo": vo, "keys": [{"fingerprint": a.fingerprint, "role": a.role} for a in anchors]}
        for vo, anchors in found.items()
    ]
    terminal.show(value, terminal.table(["VO", "KEY", "ROLE"], rows), as_json=as_json)


@vo_app.command("remove-key")
def remove_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The VO's name.")],
    fingerprint: Annotated[str, typer.Argument(help="The key's fingerprint, as `vo list` shows it.")],
    directory: Directory = None,
    as_json: Json = False,
) -> None:
    """Accept nothing more that this key endorses. What is published stays; sites decide by their own anchors."""
    from catalog.db import images as registry
    from catalog.publication.state_directory import open_database
    from signer.openpgp.keys import normalize_fingerprint

    key = fingerprint if fingerprint.startswith("/") else normalize_fingerprint(fingerprint)
    database = open_database(_settings(context, directory).directory)
    try:
        with database.writing() as connection:
            if not registry.remove_key(connection, name, key):
                raise NotFound(f"{key} is no registered key of {name}; `partita vo list` shows those that are")
            _tell(context, directory, name, [f"{scheme_of(key)}:{key}"], "removed")
    finally:
        database.close()
    terminal.show({"vo": name, "fingerprint": key}, f"{key} may not publish for {name} any more", as_json=as_json)


def _tell(context: typer.Context, directory: Path | None, vo: str, keys: list[str], done: str, role: str = "") -> None:
    """Put it on record whose endorsements are accepted from now on."""
    from contextlib import closing

    from catalog.publication.history import VO, History

    with closing(History(_settings(context, directory).directory, _now())) as found:
        for key in keys:
            facts = {"title": vo, "endorser": key, "done": done} | ({"role": role} if role else {})
            found.record(VO, facts, _now())


def publish_command(context: typer.Context, image: Image, catalog: Url = None, as_json: Json = False) -> None:
    """Publish an image directory that was endorsed; run again after a cut, it goes on where it stopped."""
    bundle = Bundle.open(image)
    total = sum(address.size for address in bundle.manifest.contents())
    begun = time.monotonic()
    with _client(context, catalog) as client, terminal.progress("publishing", total) as advance:
        result = transfer.publish_image(client, bundle, advance)
        url = client.url
    seconds = time.monotonic() - begun
    shown = (
        f"{result.title} is published at {url}\n{result.image_id}\n"
        f"{terminal.format_size(result.sent)} sent, {terminal.format_size(result.present)} there already or zero, {seconds:.1f} s"
    )
    terminal.show(dataclasses.asdict(result) | {"catalog": url}, shown, as_json=as_json)


def endorse_command(
    context: typer.Context,
    image: Image,
    key: OwnKey = None,
    certificate: CertificateFile = None,
    certificate_key: CertificateKeyFile = None,
    role: Annotated[str, typer.Option(help="In what function you vouch for it.")] = DEFAULT_ROLE,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="How many days the endorsement holds.")
    ] = ENDORSEMENT_LIFETIME.days,
    comment: Annotated[str, typer.Option(help="Free text for people.")] = "",
    partition: Annotated[
        str | None, typer.Option(help="Vouch for the partition of this label only, in whatever image it is used.")
    ] = None,
    title: Annotated[
        str | None, typer.Option("--as", help="With --partition: what you call it, as VO-OR-SITE/NAME@VERSION.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Vouch for an image: sign a statement that names it, and keep both in its directory."""
    bundle, now = Bundle.open(image), _now()
    manifest = bundle.manifest
    signer = choose_signer(context, key, certificate, certificate_key, passphrase_file)
    terms = {"role": role, "lifetime": timedelta(days=days), "comment": comment}
    if partition is None:
        statement, signature = endorse_as(signer, manifest.image_id, manifest.title, now, **terms)  # type: ignore[arg-type]
    else:
        address = _partition(bundle, partition)
        statement, signature = endorse_partition(signer, address, title or manifest.title, now, **terms)  # type: ignore[arg-type]
    path = bundle.add_endorsement(statement, signature)
    until = now + timedelta(days=days)
    value = {
        "image_id": bundle.manifest.image_id,
        "title": bundle.manifest.title,
        "statement": str(path),
        "expires": write_instant(until),
    }
    shown = f"{bundle.manifest.title} is endorsed until {until:%Y-%m-%d}\n{bundle.manifest.image_id}\n{path}"
    terminal.show(value, shown, as_json=as_json)


@image_app.command("list")
def image_list(
    context: typer.Context,
    vo: Annotated[str | None, typer.Option(help="Only of this VO.")] = None,
    name: Annotated[str | None, typer.Option(help="Only of this name.")] = None,
    catalog: Url = None,
    as_json: Json = False,
) -> None:
    """List the images that a catalog has published, last published first."""
    with _client(context, catalog) as client:
        found = list(client.images(vo, name))
    rows = [
        [
            f"{one.vo}/{one.name}@{one.version}",
            one.architecture,
            terminal.format_size(one.size),
            f"{one.published:%Y-%m-%d %H:%M}",
            one.image_id,
        ]
        for one in found
    ]
    value = [one.model_dump(mode="json") for one in found]
    terminal.show(value, terminal.table(["IMAGE", "ARCHITECTURE", "SIZE", "PUBLISHED", "ID"], rows), as_json=as_json)


@image_app.command("candidates")
def image_candidates(
    context: typer.Context,
    vo: Annotated[str | None, typer.Option(help="Only of this VO.")] = None,
    catalog: Url = None,
    as_json: Json = False,
) -> None:
    """List images that sites offer and nobody has endorsed yet; for sites that serve the VO, by their credential."""
    with _client(context, catalog) as client:
        found = client.candidates(vo)
    rows = [
        (
            f"{one.vo}/{one.name}@{one.version}",
            terminal.format_size(one.size),
            "whole" if one.complete else "still arriving",
            f"{one.expires:%Y-%m-%d %H:%M} UTC",
            one.image_id,
        )
        for one in found
    ]
    table = terminal.table(("IMAGE", "SIZE", "IS", "FORGOTTEN", "ID"), rows) if rows else "no candidates"
    terminal.show([one.model_dump(mode="json") for one in found], table, as_json=as_json)


@image_app.command("fetch")
def image_fetch(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="VO/NAME@VERSION, VO/NAME or an image ID.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The image directory to make; absent or empty.")],
    candidate: Annotated[
        bool, typer.Option("--candidate", help="An image, by its ID, that a site offers and nobody has endorsed.")
    ] = False,
    catalog: Url = None,
    as_json: Json = False,
) -> None:
    """Fetch an image into a directory; its contents are verified, whom to believe is for you to say."""
    wanted = Reference.parse(reference)
    if candidate:
        if wanted.image_id is None:
            raise Misused("a candidate has no name yet; give its image ID, as `partita image candidates` shows it")
        with _client(context, catalog) as client, terminal.progress("fetching", None) as advance:
            bundle = transfer.fetch_candidate(client, wanted.image_id, output, advance)
        value = {"image_id": bundle.manifest.image_id, "title": bundle.manifest.title, "directory": str(output)}
        said = f"{bundle.manifest.title} is in {output}, endorsed by nobody\n{bundle.manifest.image_id}"
        terminal.show(value, said, as_json=as_json)
        return
    with _verified(context, catalog) as client:
        total = sum(address.size for address in client.manifest(client.resolve(wanted)).contents())
        with terminal.progress("fetching", total) as advance:
            bundle = transfer.fetch_image(client, wanted, output, advance)
    value = {"image_id": bundle.manifest.image_id, "title": bundle.manifest.title, "directory": str(output)}
    terminal.show(value, f"{bundle.manifest.title} is in {output}\n{bundle.manifest.image_id}", as_json=as_json)


def _settings(context: typer.Context, directory: Path | None) -> CatalogSettings:
    settings = terminal.section(context, CatalogSettings)
    return settings if directory is None else settings.model_copy(update={"directory": directory})


def _client(context: typer.Context, url: str | None) -> CatalogClient:
    settings = terminal.section(context, CatalogSettings)
    return CatalogClient(url or settings.url, credential=read_credential(settings.credential))


def _verified(context: typer.Context, url: str | None) -> "CatalogClient | TrustedCatalog":
    """The catalog as far as the root that is pinned for commands vouches for it; without one, as it says."""
    settings = terminal.section(context, CatalogSettings)
    if settings.tuf_root is None:
        return _client(context, url)
    from catalog.client.trusted import TrustedCatalog  # loads the TUF library

    try:
        root = settings.tuf_root.read_bytes()
    except OSError as exc:
        raise Misused(f"{settings.tuf_root}: the pinned root cannot be read ({exc.strerror})") from exc
    urls, credential = [url or settings.url], read_credential(settings.credential)
    place = state_directory("commands") / "freshness" / hashlib.sha256(root).hexdigest()[:16]
    return TrustedCatalog(place, lambda: root, urls, lambda: datetime.now(UTC), credential=credential)


def _anchors(vo: str, role: str, file: Path) -> list[Anchor]:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_KEY + 1)
    except OSError as exc:
        raise Misused(f"{file}: the key cannot be read ({exc.strerror})") from exc
    if b"-----BEGIN CERTIFICATE-----" in data:
        return [Anchor(vo, role, read_certificate(data).subject, data, "x509")]
    return [Anchor(vo, role, key.fingerprint, data) for key in read_keys(data)]


def _partition(bundle: Bundle, label: str) -> str:
    found = {str(part.content) for part in bundle.manifest.partitions() if part.content and part.label == label}
    if len(found) != 1:
        labels = ", ".join(part.label for part in bundle.manifest.partitions() if part.content)
        raise Misused(
            f"{bundle.root}: has {len(found)} partitions {label!r} with content; there are {labels or 'none'}"
        )
    return found.pop()


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
