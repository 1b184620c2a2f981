"""Export a VO's endorsed images as a signed HEPiX list, for sites that use vmcatcher, atrope or cloudkeeper."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalog.client.client import CatalogClient
from catalog.errors import Misused
from catalog.hepix.image_list import ImageList, ListedImage, NamedEndorser, write_list
from catalog.image.manifest import DirectBoot, Manifest
from signer.runtime.progress import Advance, ignore_progress
from signer.verification.endorsements import verify_endorsements
from signer.verification.signers import CertificateSigner
from signer.verification.smime import sign_message
from signer.verification.trust import Anchor, EndorsedSubject
from signer.x509.cms_verifier import X509Rules

LIFETIME = timedelta(days=28)
"""The default validity of a list; sites fetch it every few hours and stop using it when it has expired."""

_MIB = 1 << 20


@dataclass(frozen=True)
class ExportRequest:
    """A list to export.

    Attributes:
        vo: the VO whose images are listed.
        uri: where the list will be served; its identifier follows from the URI, which must never change.
        title, description: for people.
        email, creator: of the endorser, for people.
        lifetime: how long the list is valid.
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
    """A signed list: the message, its content, and a sentence for each image that was left out."""

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
    that firmware boots: consumers of such lists do not know partitions, separate kernels, or several disks.

    Args:
        client: the catalog; it reads each flat image once to measure it.
        wanted: the list to make.
        anchors: the keys whose endorsements of the VO's images count.
        signer: the endorser of the list.
        now: the time in the list, and its version.
        x509: the CAs that endorsements by certificate are verified with.
        advance: called with 1 for each image.

    Raises:
        Misused: no image can be listed; an empty list would make every site drop all its images.
        KeyUnusable, SignatureError: the endorser's certificate cannot sign.
    """
    entries: dict[str, str] = {}
    for entry in client.images(wanted.vo, None):  # last published first
        entries.setdefault(entry.name, entry.image_id)
    listed, left_out = [], []
    for image_id in entries.values():
        manifest = client.manifest(image_id)
        checks = verify_endorsements(
            EndorsedSubject(image_id, manifest.title), client.endorsements(image_id), anchors, now, x509=x509
        )
        counting = [check for check in checks if check.counts and check.vo == wanted.vo]
        until = max((check.expires for check in counting if check.expires is not None), default=None)
        if until is None:
            why = checks[0].reason if checks else "it has none"
            left_out.append(f"{manifest.title} is left out, as no endorsement counts: {why}")
        elif reason := why_unlistable(manifest):
            left_out.append(f"{manifest.title} is left out: {reason}")
        else:
            listed.append(_listed(client, manifest, min(until, now + wanted.lifetime)))
        advance(1)
    if not listed:
        raise Misused(
            f"no image of {wanted.vo} can be listed, and an empty list would make every site drop all images"
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
        endorser=NamedEndorser(
            dn=certificate.subject, ca=certificate.issuer, email=wanted.email, creator=wanted.creator
        ),
        images=tuple(listed),
        vo=wanted.vo,
    )
    return ExportResult(sign_message(signer, write_list(content), now), content, tuple(left_out))


def why_unlistable(manifest: Manifest) -> str:
    """Why an image cannot be listed as one bootable file; empty if it can."""
    if len(manifest.disks) != 1:
        return f"it has {len(manifest.disks)} disks, and an image list has one file for each image"
    if isinstance(manifest.boot, DirectBoot):
        return "its kernel is not on its disk, and users of image lists boot the disk alone"
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
        comments="",
        hypervisor="kvm",
        format="RAW",
        memory=-(-manifest.needs.memory // _MIB),
        cores=manifest.needs.cores,
        expires=expires,
        image_id=manifest.image_id,
        manifest=place,
    )
