"""The commands for HEPiX image lists: `catalog export hepix` and `catalog import hepix`."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from catalog.cli.options import Url, catalog_settings
from catalog.client.client import CatalogClient
from catalog.disk.inspector import DiskFormat
from catalog.errors import Misused
from catalog.hepix.exporter import LIFETIME, ExportRequest, export_list
from catalog.hepix.importer import ImportRequest, import_image, open_list, read_source
from catalog.hepix.subscriptions import ListEndorser, Subscriptions
from signer.cli import choose_key, open_keyring, read_passphrase
from signer.openpgp.gpg import MAX_KEY
from signer.openpgp.verifier import read_keys
from signer.runtime import files, terminal
from signer.runtime.clock import current_second
from signer.runtime.settings import state_directory
from signer.verification.endorsements import DEFAULT_ROLE, endorse
from signer.verification.signers import CertificateSigner, KeySigner
from signer.verification.trust import Anchor
from signer.x509.ca_directory import DEFAULT_DIRECTORY
from signer.x509.certificates import Credential
from signer.x509.cms_verifier import X509Rules

export_app = typer.Typer(help="Export image lists.", no_args_is_help=True)
import_app = typer.Typer(help="Import images from published image lists.", no_args_is_help=True)

CaDirectory = Annotated[Path, typer.Option("--ca-directory", help="Directory of CAs, signing policies and CRLs.")]


@export_app.callback()
def _export() -> None:
    """Keeps `hepix` a command of its own."""


@import_app.callback()
def _import() -> None:
    """Keeps `hepix` a command of its own."""


@export_app.command("hepix")
def export_hepix(
    context: typer.Context,
    vo: Annotated[str, typer.Option(help="The VO whose images are listed.")],
    uri: Annotated[str, typer.Option(help="URL at which you will serve the list; it must never change.")],
    certificate: Annotated[Path, typer.Option("--endorser-cert", help="Your certificate, PEM.")],
    key: Annotated[Path, typer.Option("--key", help="Its private key, PEM.")],
    vo_keys: Annotated[
        list[Path], typer.Option("--vo-key", help="File with a public key whose endorsements count; repeatable.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    title: Annotated[str | None, typer.Option(help="Title of the list.")] = None,
    email: Annotated[str, typer.Option(help="Your e-mail address.")] = "-",
    days: Annotated[int, typer.Option(min=1, max=366, help="How many days the list is valid.")] = LIFETIME.days,
    passphrase_file: Annotated[Path | None, typer.Option(help="File whose first line is the key's passphrase.")] = None,
    catalog: Url = None,
) -> None:
    """Sign a HEPiX image list of a VO's endorsed images, each as one raw file that the catalog serves.

    `openssl smime -verify` verifies it; vmcatcher, atrope and cloudkeeper read it.
    """
    now = current_second()
    credential = Credential.read(
        _read(certificate, MAX_KEY), _read(key, MAX_KEY), passphrase=read_passphrase(passphrase_file)
    )
    anchors = [
        Anchor(vo, DEFAULT_ROLE, each.fingerprint, data)
        for data in (_read(file, MAX_KEY) for file in vo_keys)
        for each in read_keys(data)
    ]
    wanted = ExportRequest(
        vo=vo,
        uri=uri,
        title=title or f"Images of {vo}",
        description=f"Images that {vo} endorses",
        email=email,
        creator=credential.certificate.subject.rpartition("CN=")[2] or credential.certificate.subject,
        lifetime=timedelta(days=days),
    )
    with (
        CatalogClient(catalog or catalog_settings(context).url) as client,
        terminal.progress("reading images", None) as advance,
    ):
        done = export_list(client, wanted, anchors, CertificateSigner(credential), now, advance=advance)
    files.write(output, done.message)
    for sentence in done.left_out:
        terminal.say(sentence)
    rows = [[image.title, image.version, terminal.format_size(image.size), image.uri] for image in done.content.images]
    value = {
        "file": str(output),
        "identifier": done.content.identifier,
        "version": done.content.version,
        "images": [{"identifier": image.identifier, "uri": image.uri} for image in done.content.images],
        "left_out": list(done.left_out),
    }
    terminal.show(value, terminal.table(["IMAGE", "VERSION", "SIZE", "URL"], rows))


@import_app.command("hepix")
def import_hepix(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="URL or file of the signed list.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for the new image directories.")],
    vo: Annotated[str, typer.Option(help="The VO under which the images are published here.")],
    endorser_dn: Annotated[
        str | None, typer.Option(help="Trusted endorser of a new list: certificate subject.")
    ] = None,
    endorser_ca: Annotated[str | None, typer.Option(help="And its issuer, both as `openssl -nameopt compat`.")] = None,
    images: Annotated[
        list[str] | None, typer.Option("--image", help="Identifier of an image to import; repeatable.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Import all images.")] = False,
    named: Annotated[
        DiskFormat | None, typer.Option("--format", help="Format of files whose list does not say; never guessed.")
    ] = None,
    ca_directory: CaDirectory = DEFAULT_DIRECTORY,
    state: Annotated[Path | None, typer.Option(help="Directory of the subscriptions.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Fingerprint of the site's key to endorse with.")] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="File whose first line is the key's passphrase.")] = None,
) -> None:
    """Import images from a signed list and endorse them as the site. Publish each with `partita publish`."""
    now, known = current_second(), Subscriptions(state or state_directory("hepix"))
    if (endorser_dn is None) != (endorser_ca is None):
        raise Misused("--endorser-dn and --endorser-ca belong together: two CAs may certify the same name")
    endorser = None if endorser_dn is None or endorser_ca is None else ListEndorser(endorser_dn, endorser_ca)
    order = ImportRequest(vo, endorser, frozenset(images or ()), every, named)
    keyring = open_keyring(context)
    signing, passphrase = choose_key(keyring, key), read_passphrase(passphrase_file)
    message = read_source(source)
    found, subscription = open_list(message, known, order, X509Rules(ca_directory), now)
    known.keep(subscription, message)
    taken = []
    for listed in found.images:
        if listed.identifier in subscription.images and (every or not images or listed.identifier in images):
            target = output / f"{listed.identifier}-{listed.sha512[:12]}"
            if (target / "manifest.json").is_file():
                continue
            bundle = import_image(found, listed, target, order, now, terminal.progress).bundle
            manifest = bundle.manifest
            pair = endorse(
                KeySigner(keyring, signing, passphrase),
                manifest.image_id,
                manifest.title,
                now,
                comment=f"from the image list {found.identifier} {found.version}"[:200],
            )
            bundle.add_endorsement(*pair)
            taken.append((target, manifest))
    value = [{"directory": str(target), "image_id": one.image_id} for target, one in taken]
    rows = [[one.title, one.image_id, str(target)] for target, one in taken]
    shown = (
        terminal.table(["IMAGE", "ID", "DIRECTORY"], rows) if rows else "nothing new: all images were imported before"
    )
    terminal.show(value, shown)


def _read(path: Path, limit: int) -> bytes:
    data = files.read_bounded(path, limit, Misused)
    if len(data) > limit:
        raise Misused(f"{path}: larger than the limit of {limit} bytes")
    return data
