"""The commands of publishers and users of images: endorse, publish, list and fetch them."""

import dataclasses
import hashlib
import time
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.cli.access import open_, restrict
from catalog.cli.image import image_app
from catalog.cli.options import ImageReference, Url, VoFilter, catalog_settings, open_client
from catalog.cli.torrent import torrent
from catalog.client import transfer
from catalog.client.credential_file import read_credential
from catalog.errors import Misused
from catalog.image.bundle import Bundle
from catalog.image.reference import Reference
from signer.cli import CertificateFile, CertificateKeyFile, OwnKey, PassphraseFile, choose_signer
from signer.runtime import terminal
from signer.runtime.clock import current_second, utc_now
from signer.runtime.settings import state_directory
from signer.statements.endorsement import SubjectKind, write_instant
from signer.verification.endorsements import DEFAULT_ROLE, ENDORSEMENT_LIFETIME, endorse

if TYPE_CHECKING:
    from catalog.client.client import CatalogClient
    from catalog.client.trusted import TrustedCatalog

image_app.command("restrict")(restrict)
image_app.command("open")(open_)
image_app.command("torrent")(torrent)

ImageDirectory = Annotated[Path, typer.Argument(help="An image directory that `image import` or `image build` made.")]


def publish_command(context: typer.Context, image: ImageDirectory, catalog: Url = None) -> None:
    """Publish an endorsed image directory. Run it again after an interruption: it continues where it stopped."""
    bundle = Bundle.open(image)
    total = sum(address.size for address in bundle.manifest.contents())
    begun = time.monotonic()
    with open_client(context, catalog) as client, terminal.progress("publishing", total) as advance:
        result = transfer.publish_image(client, bundle, advance)
        url = client.url
    sent, present = terminal.format_size(result.sent), terminal.format_size(result.present)
    shown = (
        f"{result.title} is published at {url}\n{result.image_id}\n"
        f"{sent} sent, {present} already present or zero, {time.monotonic() - begun:.1f} s"
    )
    terminal.show(dataclasses.asdict(result) | {"catalog": url}, shown)


def endorse_command(
    context: typer.Context,
    image: ImageDirectory,
    key: OwnKey = None,
    certificate: CertificateFile = None,
    certificate_key: CertificateKeyFile = None,
    role: Annotated[str, typer.Option(help="The role in which you endorse.")] = DEFAULT_ROLE,
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="How many days the endorsement is valid.")
    ] = ENDORSEMENT_LIFETIME.days,
    comment: Annotated[str, typer.Option(help="Free text for people.")] = "",
    partition: Annotated[
        str | None, typer.Option(help="Endorse only the partition with this label, in whatever image it is used.")
    ] = None,
    title: Annotated[
        str | None, typer.Option("--as", help="With --partition: its title, as VO-OR-SITE/NAME@VERSION.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Endorse an image: sign a statement that names it, and store both in its directory."""
    bundle, now = Bundle.open(image), current_second()
    manifest = bundle.manifest
    signer = choose_signer(context, key, certificate, certificate_key, passphrase_file)
    kind: SubjectKind = "image" if partition is None else "partition"
    subject = manifest.image_id if partition is None else _partition(bundle, partition)
    named = manifest.title if partition is None else title or manifest.title
    lifetime = timedelta(days=days)
    statement, signature = endorse(
        signer, subject, named, now, kind=kind, role=role, lifetime=lifetime, comment=comment
    )
    path = bundle.add_endorsement(statement, signature)
    until = now + lifetime
    value = {
        "image_id": manifest.image_id,
        "title": manifest.title,
        "statement": str(path),
        "expires": write_instant(until),
    }
    shown = f"{manifest.title} is endorsed until {until:%Y-%m-%d}\n{manifest.image_id}\n{path}"
    terminal.show(value, shown)


@image_app.command("list")
def image_list(
    context: typer.Context,
    vo: VoFilter = None,
    name: Annotated[str | None, typer.Option(help="Only of this name.")] = None,
    catalog: Url = None,
) -> None:
    """List the published images of a catalog, last published first."""
    with open_client(context, catalog) as client:
        found = list(client.images(vo, name))
    rows = [
        [
            one.title,
            one.architecture,
            terminal.format_size(one.size),
            f"{one.published:%Y-%m-%d %H:%M}",
            one.image_id,
        ]
        for one in found
    ]
    value = [one.model_dump(mode="json") for one in found]
    terminal.show(value, terminal.table(["IMAGE", "ARCHITECTURE", "SIZE", "PUBLISHED", "ID"], rows))


@image_app.command("candidates")
def image_candidates(context: typer.Context, vo: VoFilter = None, catalog: Url = None) -> None:
    """List images that sites offer and that wait for an endorsement. Needs the credential of a site that serves the VO."""
    with open_client(context, catalog) as client:
        found = client.candidates(vo)
    rows = [
        (
            one.title,
            terminal.format_size(one.size),
            "complete" if one.complete else "uploading",
            f"{one.expires:%Y-%m-%d %H:%M} UTC",
            one.image_id,
        )
        for one in found
    ]
    table = terminal.table(("IMAGE", "SIZE", "STATE", "EXPIRES", "ID"), rows) if rows else "no candidates"
    terminal.show([one.model_dump(mode="json") for one in found], table)


@image_app.command("fetch")
def image_fetch(
    context: typer.Context,
    reference: ImageReference,
    output: Annotated[Path, typer.Option("--output", "-o", help="The image directory to make; absent or empty.")],
    candidate: Annotated[
        bool, typer.Option("--candidate", help="Fetch an image without endorsements that a site offers, by its ID.")
    ] = False,
    catalog: Url = None,
) -> None:
    """Fetch an image into a directory. Contents are verified; verifying its endorsements is left to you."""
    wanted, note = Reference.parse(reference), ""
    if candidate:
        if wanted.image_id is None:
            raise Misused("a candidate has no name yet; give its image ID, as `partita image candidates` shows it")
        with open_client(context, catalog) as client, terminal.progress("fetching", None) as advance:
            bundle = transfer.fetch_candidate(client, wanted.image_id, output, advance)
        note = ", without any endorsement"
    else:
        with _open_verified(context, catalog) as verified:
            total = sum(address.size for address in verified.manifest(verified.resolve(wanted)).contents())
            with terminal.progress("fetching", total) as advance:
                bundle = transfer.fetch_image(verified, wanted, output, advance)
    manifest = bundle.manifest
    value = {"image_id": manifest.image_id, "title": manifest.title, "directory": str(output)}
    terminal.show(value, f"{manifest.title} is in {output}{note}\n{manifest.image_id}")


def _open_verified(context: typer.Context, url: str | None) -> "AbstractContextManager[CatalogClient | TrustedCatalog]":
    """The catalog, verified from the root that is pinned for commands; unverified if none is pinned."""
    settings = catalog_settings(context)
    if settings.tuf_root is None:
        return open_client(context, url)
    from catalog.client.trusted import TrustedCatalog, read_pin  # loads the TUF library

    if (root := read_pin(settings.tuf_root)) is None:
        raise Misused(f"{settings.tuf_root}: the pinned root cannot be read (no such file)")
    urls, credential = [url or settings.url], read_credential(settings.credential)
    directory = state_directory("commands") / "freshness" / hashlib.sha256(root).hexdigest()[:16]
    return TrustedCatalog(directory, lambda: root, urls, utc_now, credential=credential)


def _partition(bundle: Bundle, label: str) -> str:
    labels = [(part.label, str(part.content)) for part in bundle.manifest.partitions() if part.content]
    found = {address for name, address in labels if name == label}
    if len(found) != 1:
        names = ", ".join(name for name, _ in labels) or "none"
        raise Misused(f"{bundle.root}: {len(found)} partitions with content are labelled {label!r}; labels: {names}")
    return found.pop()
