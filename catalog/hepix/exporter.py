"""A VO's endorsed images as a signed HEPiX list: for sites that take their images with vmcatcher, atrope or cloudkeeper."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.client.client import CatalogClient
from catalog.errors import Misused
from catalog.hepix.image_list import ImageList, ListedImage, write_list
from catalog.image.manifest import DirectBoot, Manifest
from signer.runtime.progress import Advance, ignore_progress
from signer.verification.endorsements import verify_endorsements
from signer.verification.signers import CertificateSigner
from signer.verification.smime import sign_message
from signer.verification.trust import Anchor
from signer.x509.cms_verifier import X509Rules

LIFETIME = timedelta(days=28)
"""How long a list holds unless said otherwise; sites fetch it every few hours and stop when it has expired."""

_MIB = 1 << 20


@dataclass(frozen=True)
class ExportRequest:
    """How the list is to be.

    Attributes:
        vo: whose images.
        uri: where the list will be served; its identifier follows from it, and must not change in the list's life.
        title, description: for people.
        email, creator: of the endorser, for people.
        lifetime: how long it holds.
    """

    vo: str
    uri: str
    title: str
    description: str
    email: str
    creator: str
    lifetime: timedelta = LIFETIME


@dataclass(frozen=True)
class ExportResult:
    """A list that was signed: the message, what is in it, and a sentence for each image that is not."""

    message: bytes
    content: ImageList
    left_out: tuple[str, ...]


def export_list(
    client: CatalogClient,
    wanted: ExportRequest,
    anchors: Sequence[Anchor],
    signer: CertificateSigner,
    now: datetime,
    *,
    x509: X509Rules | None = None,
    advance: Advance = ignore_progress,
) -> ExportResult:
    """Make and sign the list.

    The newest version of each name is listed, if an endorsement of it counts by the anchors now, and if it is one disk
    that firmware boots: who consumes such lists knows nothing of partitions, kernels beside them, or several disks.

    Args:
        client: the catalog; it measures each flat image once, which takes reading all of it.
        wanted: how.
        anchors: whose endorsements of the VO's images count.
        signer: the endorser of the list.
        now: the time in it, and its version.
        x509: by which CAs endorsements by certificate are judged.
        advance: called with 1 for each image that was looked at.

    Raises:
        Misused: no image is left to list; an empty list would make every site drop all of them.
        KeyUnusable, SignatureError: the endorser's certificate cannot sign.
    """
    entries: dict[str, str] = {}
    for entry in client.images(wanted.vo, None):  # last published first
        entries.setdefault(entry.name, entry.image_id)
    listed, left_out = [], []
    for image_id in entries.values():
        manifest = client.manifest(image_id)
        checks = verify_endorsements(
            image_id, client.endorsements(image_id), anchors, now, title=manifest.title, x509=x509
        )
        counting = [check for check in checks if check.counts and check.vo == wanted.vo]
        until = max((check.expires for check in counting if check.expires is not None), default=None)
        if until is None:
            said = checks[0].reason if checks else "nobody endorsed it"
            left_out.append(f"{manifest.title} is left out, as no endorsement counts: {said}")
        elif reason := why_unlistable(manifest):
            left_out.append(f"{manifest.title} is left out: {reason}")
        else:
            listed.append(_listed(client, manifest, min(until, now + wanted.lifetime)))
        advance(1)
    if not listed:
        raise Misused(
            f"no image of {wanted.vo} can be listed, and an empty list makes every site drop all images"
            + "".join(f"; {sentence}" for sentence in left_out)
        )
    certificate = signer.credential.certificate
    content = ImageList(
        identifier=str(uuid.uuid5(uuid.NAMESPACE_URL, wanted.uri)),
        title=wanted.title,
        description=wanted.description,
        source=client.url,
        uri=wanted.uri,
        version=now.strftime("%Y%m%d.%H%M%S"),
        created=now,
        expires=now + wanted.lifetime,
        dn=certificate.subject,
        ca=certificate.issuer,
        email=wanted.email,
        creator=wanted.creator,
        images=tuple(listed),
        vo=wanted.vo,
    )
    return ExportResult(sign_message(signer, write_list(content), now), content, tuple(left_out))


def why_unlistable(manifest: Manifest) -> str:
    """Why an image cannot be one file that others boot; empty if it can."""
    if len(manifest.disks) != 1:
        return f"it has {len(manifest.disks)} disks, and an image list has one file for each image"
    if isinstance(manifest.boot, DirectBoot):
        return "its kernel lies beside its disk, and who takes images from lists boots the disk alone"
    return ""


def _listed(client: CatalogClient, manifest: Manifest, expires: datetime) -> ListedImage:
    flat = client.flat(manifest)
    name = f"{manifest.vo}/{manifest.name}"
    place = f"{client.url}/v1/images/{manifest.image_id}"
    return ListedImage(
        identifier=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{client.url}/v1/names/{name}")),
        title=name,
        description=f"{manifest.title} ({manifest.boot.mode} boot)",
        version=manifest.version,
        uri=f"{place}/disk.raw",
        size=flat.size,
        sha512=flat.sha512,
        architecture=manifest.architecture,
        os=manifest.os.id,
        os_version=manifest.os.version or "-",
        format="RAW",
        memory=-(-manifest.needs.memory // _MIB),
        cores=manifest.needs.cores,
        expires=expires,
        extra={"partita:image": manifest.image_id, "partita:manifest": place},
    )
