"""Read and write HEPiX image lists: the union of the members that vmcatcher, atrope and cloudkeeper need. Pure.

Unknown members are ignored, as many lists carry some of their own; the known ones are read strictly. Source: the
HEPiX virtualisation working group's image list (hepixvmitrust), and EGI's `ad:` members.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from catalog.errors import Malformed
from signer.documents import read_json
from signer.errors import DocumentError
from signer.verification.smime import MAX_MESSAGE

MAX_IMAGES = 10_000
"""Images in a list; EGI's largest had a few hundred."""

MAX_TEXT = 4096
"""Characters of a text."""

TIME = "%Y-%m-%dT%H:%M:%SZ"
"""The form of dates: consumers parse neither fractions nor offsets."""

_SHA512 = re.compile(r"[0-9a-f]{128}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PARTS = re.compile(r"\d+|[^\d]+")


@dataclass(frozen=True)
class ListedImage:
    """An image of a list: a file at `uri` of `size` bytes and this SHA-512, both as downloaded.

    Attributes:
        identifier: UUID, the same for all versions.
        memory, cores: the minimum, in MiB and number; None where the list does not say.
        expires: when its endorsement expires; None where only the list's expiry counts.
        format: of the file, such as "RAW" or "OVA"; empty where the list does not say.
        extra: further members, written after ours.
    """

    identifier: str
    title: str
    description: str
    version: str
    uri: str
    size: int
    sha512: str
    architecture: str
    os: str
    os_version: str
    comments: str = ""
    hypervisor: str = "kvm"
    format: str = ""
    memory: int | None = None
    cores: int | None = None
    expires: datetime | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageList:
    """A list: its endorser, its images and its expiry. `dn` and `ca` are what the list claims about its endorser."""

    identifier: str
    title: str
    description: str
    source: str
    uri: str
    version: str
    created: datetime
    expires: datetime
    dn: str
    ca: str
    email: str
    creator: str
    images: tuple[ListedImage, ...]
    vo: str = ""


def write_list(found: ImageList) -> bytes:
    """The JSON document of a list, to be signed."""
    document = {
        "hv:imagelist": {
            "dc:identifier": found.identifier,
            "dc:title": found.title,
            "dc:description": found.description,
            "dc:source": found.source,
            "dc:date:created": found.created.strftime(TIME),
            "dc:date:expires": found.expires.strftime(TIME),
            "hv:version": found.version,
            "hv:uri": found.uri,
            "hv:endorser": {
                "hv:x509": {"hv:dn": found.dn, "hv:ca": found.ca, "hv:email": found.email, "dc:creator": found.creator}
            },
            "ad:vo": found.vo,
            "ad:num_of_images": len(found.images),
            "hv:images": [{"hv:image": _image(image, found.expires)} for image in found.images],
        }
    }
    return json.dumps(document, sort_keys=True, indent=4, ensure_ascii=True).encode()


def read_list(data: bytes) -> ImageList:
    """Parse the JSON document of a list.

    Raises:
        Malformed: a member is missing, empty or malformed, and which. No image is left out silently.
    """
    try:
        document = read_json(data, "image list", limit=MAX_MESSAGE)
    except DocumentError as exc:
        raise Malformed(str(exc)) from exc
    inner = _object(document, "hv:imagelist", "the image list")
    by = _object(_object(inner, "hv:endorser", "the image list"), "hv:x509", "hv:endorser")
    images = inner.get("hv:images")
    if not isinstance(images, list) or len(images) > MAX_IMAGES:
        raise Malformed(f"hv:images is not a list of at most {MAX_IMAGES} images")
    listed = tuple(
        _read_image(_object(each, "hv:image", f"image {number}"), f"image {number}")
        for number, each in enumerate(images, 1)
    )
    identifiers = [image.identifier for image in listed]
    if len(set(identifiers)) != len(identifiers):
        raise Malformed("two images of the list have the same dc:identifier; list each once")
    where = "the image list"
    return ImageList(
        identifier=_uuid(inner, where),
        title=_text(inner, "dc:title", where),
        description=_text(inner, "dc:description", where),
        source=_text(inner, "dc:source", where),
        uri=_text(inner, "hv:uri", where),
        version=_text(inner, "hv:version", where),
        created=_time(inner, "dc:date:created", where),
        expires=_time(inner, "dc:date:expires", where),
        dn=_text(by, "hv:dn", where),
        ca=_text(by, "hv:ca", where),
        email=_text(by, "hv:email", where),
        creator=_text(by, "dc:creator", where),
        images=listed,
        vo=_text(inner, "ad:vo", where, empty=True) if "ad:vo" in inner else "",
    )


def version_order(version: str) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """The sort key of a version: its parts between `-`, `,`, `.` and `/`, digits as numbers (as in vmcatcher)."""
    return tuple(
        tuple((1, int(run), "") if run.isdigit() and run.isascii() else (0, 0, run) for run in _PARTS.findall(part))
        for part in re.split(r"[-,./]", version)
    )


def _image(image: ListedImage, expires: datetime) -> dict[str, Any]:
    document: dict[str, Any] = {
        "dc:identifier": image.identifier,
        "dc:title": image.title,
        "dc:description": image.description,
        "dc:date:expires": (image.expires or expires).strftime(TIME),
        "hv:version": image.version,
        "hv:uri": image.uri,
        "ad:mpuri": image.uri,
        "hv:size": image.size,
        "hv:hypervisor": image.hypervisor,
        "hv:format": image.format,
        "sl:checksum:sha512": image.sha512,
        "sl:arch": image.architecture,
        "sl:os": image.os,
        "sl:osversion": image.os_version,
        "sl:comments": image.comments,
    }
    if image.memory is not None:
        document["hv:ram_minimum"] = str(image.memory)
    if image.cores is not None:
        document["hv:core_minimum"] = str(image.cores)
    return document | dict(image.extra)


def _read_image(found: dict[str, Any], where: str) -> ListedImage:
    sha512 = _text(found, "sl:checksum:sha512", where).lower()
    if not _SHA512.fullmatch(sha512):
        raise Malformed(f"{where}: sl:checksum:sha512 is not a SHA-512 in hex")
    size = _number(found, "hv:size", where)
    if not size:
        raise Malformed(f"{where}: hv:size is missing or zero")
    memory = _number(found, "hv:ram_minimum", where)
    return ListedImage(
        identifier=_uuid(found, where),
        title=_text(found, "dc:title", where),
        description=_text(found, "dc:description", where, empty=True),
        version=_text(found, "hv:version", where),
        uri=_text(found, "hv:uri", where),
        size=size,
        sha512=sha512,
        architecture=_text(found, "sl:arch", where),
        os=_text(found, "sl:os", where),
        os_version=_text(found, "sl:osversion", where),
        comments=_text(found, "sl:comments", where, empty=True),
        hypervisor=_text(found, "hv:hypervisor", where),
        format=_text(found, "hv:format", where, empty=True) if "hv:format" in found else "",
        # The specification says bytes; EGI and all later lists give MiB. From 2^20 on it is bytes: no image needs 1 TiB.
        memory=memory >> 20 if memory is not None and memory >= 1 << 20 else memory,
        cores=_number(found, "hv:core_minimum", where),
        expires=_time(found, "dc:date:expires", where) if "dc:date:expires" in found else None,
    )


def _object(value: object, key: str, where: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    if not isinstance(inner, dict):
        raise Malformed(f"{where}: the object {key} is missing")
    return inner


def _text(found: dict[str, Any], key: str, where: str, *, empty: bool = False) -> str:
    value = found.get(key)
    if not isinstance(value, str) or len(value) > MAX_TEXT or _CONTROL.search(value) or not (value or empty):
        raise Malformed(f"{where}: {key} is missing, or not a text of 1 to {MAX_TEXT} characters")
    return value


def _number(found: dict[str, Any], key: str, where: str) -> int | None:
    value = found.get(key)
    if value is None:
        return None
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
        raise Malformed(f"{where}: {key} is not a whole number")
    return int(text)


def _time(found: dict[str, Any], key: str, where: str) -> datetime:
    try:
        return datetime.strptime(_text(found, key, where), TIME).replace(tzinfo=UTC)
    except ValueError as exc:
        raise Malformed(f"{where}: {key} is not a time such as 2026-11-22T12:00:00Z") from exc


def _uuid(found: dict[str, Any], where: str) -> str:
    try:
        return str(uuid.UUID(_text(found, "dc:identifier", where)))
    except ValueError as exc:
        raise Malformed(f"{where}: dc:identifier is not a valid UUID (RFC 4122)") from exc
