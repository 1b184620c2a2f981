"""The commands that revoke an endorsement, an image or a key: each signs a statement and sends it to the catalog."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.cli.options import ImageReference, Url, open_client
from catalog.errors import NotFound
from catalog.image.reference import Reference
from signer.cli import CertificateFile, CertificateKeyFile, OwnKey, PassphraseFile, choose_signer
from signer.errors import DocumentError
from signer.openpgp.keys import normalize_fingerprint
from signer.runtime import terminal
from signer.runtime.clock import current_second
from signer.statements.endorsement import VouchingStatement, parse_endorsement
from signer.statements.revocation import SECURITY_OFFICER, RevocationReason, RevokedObject
from signer.verification.revocations import revoke
from signer.verification.signers import Signer
from signer.x509.certificates import read_certificate

if TYPE_CHECKING:
    from catalog.client.client import CatalogClient

revoke_app = typer.Typer(name="revoke", help="Revoke an endorsement, an image or a key.", no_args_is_help=True)

ReasonOption = Annotated[RevocationReason, typer.Option("--reason", help="Why it is revoked.")]
Since = Annotated[
    datetime | None,
    typer.Option(
        help="When the revocation begins, UTC; default: now. Nothing that a compromised key ever signed counts."
    ),
]
RoleOption = Annotated[str, typer.Option("--role", help="The role in which you revoke.")]
CommentText = Annotated[str, typer.Option("--comment", help="Free text for people.")]


@revoke_app.command("endorsement")
def revoke_endorsement(
    context: typer.Context,
    reference: ImageReference,
    of: Annotated[
        str | None,
        typer.Option(help="The endorser's fingerprint or subject, or the SHA-256 of the statement; default: your own."),
    ] = None,
    reason: ReasonOption = "retired",
    key: OwnKey = None,
    certificate: CertificateFile = None,
    certificate_key: CertificateKeyFile = None,
    passphrase_file: PassphraseFile = None,
    role: RoleOption = SECURITY_OFFICER,
    comment: CommentText = "",
    catalog: Url = None,
) -> None:
    """Revoke endorsements of an image: your own, or those of others if you are a security officer."""
    signer = choose_signer(context, key, certificate, certificate_key, passphrase_file)
    whose = (of or signer.endorser).removeprefix("openpgp:").removeprefix("x509:").removeprefix("sha256:")
    with open_client(context, catalog) as client:
        found = [
            (hashlib.sha256(data).hexdigest(), statement)
            for data, _ in client.endorsements(client.resolve(Reference.parse(reference)))
            if (statement := _parse(data)) is not None
        ]
        wanted = [(digest, one) for digest, one in found if whose in {digest, one.fingerprint}]
        if not wanted:
            raise NotFound(f"{reference} has no endorsement by {whose} at {client.url}")
        for digest, one in wanted:
            target = RevokedObject("endorsement", one.title, digest=digest)
            _send(client, signer, target, one.vo, reason=reason, role=role, comment=comment)
    rows = [{"statement": digest, "endorser": one.predicate.endorser, "title": one.title} for digest, one in wanted]
    shown = "\n".join(f"the endorsement of {one['title']} by {one['endorser']} is revoked" for one in rows)
    terminal.show(rows, shown)


@revoke_app.command("image")
def revoke_image(
    context: typer.Context,
    reference: ImageReference,
    reason: ReasonOption = "superseded",
    key: OwnKey = None,
    certificate: CertificateFile = None,
    certificate_key: CertificateKeyFile = None,
    passphrase_file: PassphraseFile = None,
    role: RoleOption = SECURITY_OFFICER,
    comment: CommentText = "",
    catalog: Url = None,
) -> None:
    """Revoke an image: a security officer revokes it everywhere, an endorser only their own endorsement."""
    signer = choose_signer(context, key, certificate, certificate_key, passphrase_file)
    with open_client(context, catalog) as client:
        manifest = client.manifest(client.resolve(Reference.parse(reference)))
        target = RevokedObject("image", manifest.title, digest=manifest.image_id)
        _send(client, signer, target, manifest.vo, reason=reason, role=role, comment=comment)
    value = {"image_id": manifest.image_id, "title": manifest.title, "revoker": signer.endorser}
    terminal.show(value, f"{manifest.title} is revoked\n{manifest.image_id}")


@revoke_app.command("key")
def revoke_key(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A fingerprint, x509:SUBJECT, or the file of a certificate.")],
    vo: Annotated[str, typer.Option(help="The VO for which the key no longer counts.")],
    reason: ReasonOption = "compromised",
    since: Since = None,
    key: OwnKey = None,
    certificate: CertificateFile = None,
    certificate_key: CertificateKeyFile = None,
    passphrase_file: PassphraseFile = None,
    role: RoleOption = SECURITY_OFFICER,
    comment: CommentText = "",
    catalog: Url = None,
) -> None:
    """Revoke a key: your own, or another if you are a security officer. A certificate file revokes that certificate only."""
    signer = choose_signer(context, key, certificate, certificate_key, passphrase_file)
    name, serial = _key_name(target)
    begins = None if since is None else since.replace(tzinfo=UTC, microsecond=0)
    revoked = RevokedObject("key", name, serial=serial, since=begins)
    with open_client(context, catalog) as client:
        _send(client, signer, revoked, vo, reason=reason, role=role, comment=comment)
    value = {"key": name, "serial": serial, "vo": vo, "revoker": signer.endorser}
    terminal.show(value, f"{name} no longer counts for {vo} ({reason})")


def _send(
    client: "CatalogClient",
    signer: Signer,
    target: RevokedObject,
    vo: str,
    *,
    reason: RevocationReason,
    role: str,
    comment: str,
) -> None:
    """Sign a revocation and send it to the catalog."""
    client.revoke(*revoke(signer, target, vo, current_second(), reason=reason, role=role, comment=comment))


def _parse(data: bytes) -> VouchingStatement | None:
    try:
        return parse_endorsement(data, "image", "partition")
    except DocumentError:
        return None


def _key_name(target: str) -> tuple[str, str | None]:
    if target.startswith(("x509:", "/")) and not Path(target).is_file():
        return f"x509:{target.removeprefix('x509:')}", None
    if Path(target).is_file():
        found = read_certificate(Path(target).read_bytes())
        return f"x509:{found.subject}", f"{found.serial:x}"
    return f"openpgp:{normalize_fingerprint(target)}", None
