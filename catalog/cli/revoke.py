"""The commands that withdraw: an endorsement, an image, a key. Each signs a statement and hands it to the catalog."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from catalog.client.client import CatalogClient
from catalog.errors import Misused, NotFound
from catalog.image.reference import Reference
from catalog.settings import CatalogSettings
from signer.cli import CertificateFile, CertificateKeyFile, OwnKey, PassphraseFile, choose_signer
from signer.errors import DocumentError
from signer.openpgp.keys import normalize_fingerprint
from signer.runtime import terminal
from signer.runtime.terminal import Json
from signer.statements.endorsement import EndorsementStatement, PartitionStatement, parse_any_endorsement
from signer.statements.revocation import SECURITY_OFFICER, RevocationReason
from signer.verification.revocations import revoke
from signer.x509.certificates import read_certificate

revoke_app = typer.Typer(name="revoke", help="Withdraw an endorsement, an image or a key.", no_args_is_help=True)

Url = Annotated[str | None, typer.Option("--catalog", help="URL of the catalog; else the setting catalog.url.")]
ReasonOption = Annotated[str, typer.Option("--reason", help=f"One of {', '.join(get_args(RevocationReason))}.")]
Since = Annotated[
    datetime | None,
    typer.Option(help="From when on, UTC; now if not given. What a compromised key signed is void from the beginning."),
]
RoleOption = Annotated[str, typer.Option("--role", help="In what function you revoke it.")]
CommentText = Annotated[str, typer.Option("--comment", help="Free text for people.")]


@revoke_app.command("endorsement")
def revoke_endorsement(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="The image: VO/NAME@VERSION, VO/NAME or an image ID.")],
    of: Annotated[
        str | None,
        typer.Option(help="Whose: a fingerprint, a subject, or the SHA-256 of the statement; yours if not given."),
    ] = None,
    reason: ReasonOption = "retired",
    key: OwnKey = None,
    certificate: CertificateFile = None,
    certificate_key: CertificateKeyFile = None,
    passphrase_file: PassphraseFile = None,
    role: RoleOption = SECURITY_OFFICER,
    comment: CommentText = "",
    catalog: Url = None,
    as_json: Json = False,
) -> None:
    """Withdraw endorsements of an image: your own, or as a security officer somebody else's."""
    signer = choose_signer(context, key, certificate, certificate_key, passphrase_file)
    whose = (of or signer.endorser).removeprefix("openpgp:").removeprefix("x509:").removeprefix("sha256:")
    with _client(context, catalog) as client:
        found = [
            (hashlib.sha256(data).hexdigest(), said)
            for data, _ in client.endorsements(client.resolve(Reference.parse(reference)))
            if (said := _said(data)) is not None
        ]
        wanted = [(digest, said) for digest, said in found if whose in {digest, said.fingerprint}]
        if not wanted:
            raise NotFound(f"{reference} has no endorsement of {whose} at {client.url}")
        for digest, said in wanted:
            why, now = _reason(reason), _now()
            pair = revoke(
                signer, "endorsement", said.title, said.vo, now, reason=why, role=role, digest=digest, comment=comment
            )
            client.revoke(*pair)
    rows = [{"statement": digest, "endorser": said.predicate.endorser, "title": said.title} for digest, said in wanted]
    shown = "\n".join(f"the endorsement of {one['title']} by {one['endorser']} is revoked" for one in rows)
    terminal.show(rows, shown, as_json=as_json)


@revoke_app.command("image")
def revoke_image(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(help="VO/NAME@VERSION, VO/NAME or an image ID.")],
    reason: ReasonOption = "superseded",
    key: OwnKey = None,
    certificate: CertificateFile = None,
    certificate_key: CertificateKeyFile = None,
    passphrase_file: PassphraseFile = None,
    role: RoleOption = SECURITY_OFFICER,
    comment: CommentText = "",
    catalog: Url = None,
    as_json: Json = False,
) -> None:
    """Withdraw an image: a security officer's word stops it everywhere, an endorser's takes his own word back."""
    signer = choose_signer(context, key, certificate, certificate_key, passphrase_file)
    with _client(context, catalog) as client:
        manifest = client.manifest(client.resolve(Reference.parse(reference)))
        statement, signature = revoke(
            signer,
            "image",
            manifest.title,
            manifest.vo,
            _now(),
            reason=_reason(reason),
            role=role,
            digest=manifest.image_id,
            comment=comment,
        )
        client.revoke(statement, signature)
    value = {"image_id": manifest.image_id, "title": manifest.title, "revoker": signer.endorser}
    terminal.show(value, f"{manifest.title} is revoked\n{manifest.image_id}", as_json=as_json)


@revoke_app.command("key")
def revoke_key(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A fingerprint, x509:SUBJECT, or the file of a certificate.")],
    vo: Annotated[str, typer.Option(help="For which VO the key vouches no more.")],
    reason: ReasonOption = "compromised",
    since: Since = None,
    key: OwnKey = None,
    certificate: CertificateFile = None,
    certificate_key: CertificateKeyFile = None,
    passphrase_file: PassphraseFile = None,
    role: RoleOption = SECURITY_OFFICER,
    comment: CommentText = "",
    catalog: Url = None,
    as_json: Json = False,
) -> None:
    """Withdraw a key: your own, or as a security officer somebody else's. The file of a certificate means that one only."""
    signer = choose_signer(context, key, certificate, certificate_key, passphrase_file)
    name, serial = _key_name(target)
    statement, signature = revoke(
        signer,
        "key",
        name,
        vo,
        _now(),
        reason=_reason(reason),
        role=role,
        since=None if since is None else since.replace(tzinfo=UTC, microsecond=0),
        serial=serial,
        comment=comment,
    )
    with _client(context, catalog) as client:
        client.revoke(statement, signature)
    value = {"key": name, "serial": serial, "vo": vo, "revoker": signer.endorser}
    terminal.show(value, f"{name} vouches for nothing of {vo} any more ({reason})", as_json=as_json)


def _said(data: bytes) -> EndorsementStatement | PartitionStatement | None:
    try:
        return parse_any_endorsement(data)
    except DocumentError:
        return None


def _key_name(target: str) -> tuple[str, str | None]:
    if target.startswith(("x509:", "/")) and not Path(target).is_file():
        return f"x509:{target.removeprefix('x509:')}", None
    if Path(target).is_file():
        found = read_certificate(Path(target).read_bytes())
        return f"x509:{found.subject}", f"{found.serial:x}"
    return f"openpgp:{normalize_fingerprint(target)}", None


def _reason(text: str) -> RevocationReason:
    if text not in get_args(RevocationReason):
        raise Misused(f"{text!r} is no reason; say one of {', '.join(get_args(RevocationReason))}")
    return cast("RevocationReason", text)


def _client(context: typer.Context, url: str | None) -> CatalogClient:
    return CatalogClient(url or terminal.section(context, CatalogSettings).url)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
