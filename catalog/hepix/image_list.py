"""Read and write HEPiX image lists: the union of the members that vmcatcher, atrope and cloudkeeper need. Pure.

Unknown members are ignored, as many lists carry some of their own; the known ones are read strictly. Source: the
HEPiX virtualisation working group's image list (hepixvmitrust), and EGI's `ad:` members.
"""

import json
import re
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator

from catalog.errors import Malformed
from signer.documents import read_json, validate
from signer.errors import DocumentError
from signer.verification.smime import MAX_MESSAGE

MAX_IMAGES = 10_000
"""Images in a list; EGI's largest had a few hundred."""

MAX_TEXT = 4096
"""Characters of a text."""

TIME = "%Y-%m-%dT%H:%M:%SZ"
"""The form of dates: consumers parse neither fractions nor offsets."""

_PARTS = re.compile(r"\d+|[^\d]+")


def _time(value: object) -> datetime:
    if isinstance(value, datetime):
        return value
    try:
        return datetime.strptime(str(value), TIME).replace(tzinfo=UTC)
    except ValueError as exc:
        raise ValueError("is not a time such as 2026-11-22T12:00:00Z") from exc


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as exc:
        raise ValueError("is not a valid UUID (RFC 4122)") from exc


def _number(value: object) -> int:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
        raise ValueError("is not a whole number")
    return int(text)


def _mebibytes(value: object) -> int:
    """The specification says bytes; EGI and all later lists give MiB. From 2^20 on it is bytes: no image needs 1 TiB."""
    number = _number(value)
    return number >> 20 if number >= 1 << 20 else number


OptionalText = Annotated[str, Field(max_length=MAX_TEXT, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$")]
ListText = Annotated[OptionalText, Field(min_length=1)]
ListUuid = Annotated[ListText, AfterValidator(_uuid)]
ListTime = Annotated[datetime, PlainValidator(_time), PlainSerializer(lambda time: time.strftime(TIME))]
Sha512Hex = Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{128}$"), AfterValidator(str.lower)]
Mebibytes = Annotated[int, BeforeValidator(_mebibytes), PlainSerializer(str)]
Cores = Annotated[int, BeforeValidator(_number), PlainSerializer(str)]


class _Member(BaseModel):
    """A part of a list: read by the names in JSON, made by the names here."""

    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True)


class ListedImage(_Member):
    """An image of a list: a file at `uri` of `size` bytes and this SHA-512, both as downloaded.

    Attributes:
        identifier: UUID, the same for all versions.
        memory, cores: the minimum, in MiB and number; None where the list does not say.
        expires: when its endorsement expires; None where only the list's expiry counts.
        format: of the file, such as "RAW" or "OVA"; empty where the list does not say.
        image_id, manifest: of an image of ours, the image ID and where its manifest is served.
    """

    identifier: ListUuid = Field(alias="dc:identifier")
    title: ListText = Field(alias="dc:title")
    description: OptionalText = Field(alias="dc:description")
    version: ListText = Field(alias="hv:version")
    uri: ListText = Field(alias="hv:uri")
    size: Annotated[int, BeforeValidator(_number)] = Field(alias="hv:size", gt=0)
    sha512: Sha512Hex = Field(alias="sl:checksum:sha512")
    architecture: ListText = Field(alias="sl:arch")
    os: ListText = Field(alias="sl:os")
    os_version: ListText = Field(alias="sl:osversion")
    comments: OptionalText = Field(alias="sl:comments")
    hypervisor: ListText = Field(alias="hv:hypervisor")
    format: OptionalText = Field("", alias="hv:format")
    memory: Mebibytes | None = Field(None, alias="hv:ram_minimum")
    cores: Cores | None = Field(None, alias="hv:core_minimum")
    expires: ListTime | None = Field(None, alias="dc:date:expires")
    image_id: ListText | None = Field(None, alias="partita:image")
    manifest: ListText | None = Field(None, alias="partita:manifest")


class NamedEndorser(_Member):
    """What a list claims about its endorser: the certificate's subject and issuer, and for people email and name."""

    dn: ListText = Field(alias="hv:dn")
    ca: ListText = Field(alias="hv:ca")
    email: ListText = Field(alias="hv:email")
    creator: ListText = Field(alias="dc:creator")


class ImageList(_Member):
    """A list: its endorser, its images and its expiry."""

    identifier: ListUuid = Field(alias="dc:identifier")
    title: ListText = Field(alias="dc:title")
    description: ListText = Field(alias="dc:description")
    source: ListText = Field(alias="dc:source")
    uri: ListText = Field(alias="hv:uri")
    version: ListText = Field(alias="hv:version")
    created: ListTime = Field(alias="dc:date:created")
    expires: ListTime = Field(alias="dc:date:expires")
    endorser: NamedEndorser = Field(alias="hv:endorser")
    images: tuple[ListedImage, ...] = Field(alias="hv:images", max_length=MAX_IMAGES)
    vo: OptionalText = Field("", alias="ad:vo")


def write_list(found: ImageList) -> bytes:
    """The JSON document of a list, to be signed."""
    inner = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    for image in inner["hv:images"]:
        image["ad:mpuri"] = image["hv:uri"]
        image.setdefault("dc:date:expires", inner["dc:date:expires"])
    inner |= {"hv:endorser": {"hv:x509": inner["hv:endorser"]}, "ad:num_of_images": len(found.images)}
    inner["hv:images"] = [{"hv:image": image} for image in inner["hv:images"]]
    return json.dumps({"hv:imagelist": inner}, sort_keys=True, indent=4, ensure_ascii=True).encode()


def read_list(data: bytes) -> ImageList:
    """Parse the JSON document of a list.

    Raises:
        Malformed: a member is missing, empty or malformed, and which. No image is left out silently.
    """
    try:
        inner = _object(read_json(data, "image list", limit=MAX_MESSAGE), "hv:imagelist", "the image list")
        by = _object(_object(inner, "hv:endorser", "the image list"), "hv:x509", "hv:endorser")
        images = inner.get("hv:images")
        if isinstance(images, list):
            images = [_object(each, "hv:image", f"image {number}") for number, each in enumerate(images, 1)]
        found = validate(ImageList, inner | {"hv:endorser": by, "hv:images": images}, "image list")
    except DocumentError as exc:
        raise Malformed(str(exc)) from exc
    identifiers = [image.identifier for image in found.images]
    if len(set(identifiers)) != len(identifiers):
        raise Malformed("two images of the list have the same dc:identifier; list each once")
    return found


def version_order(version: str) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """The sort key of a version: its parts between `-`, `,`, `.` and `/`, digits as numbers (as in vmcatcher)."""
    return tuple(
        tuple((1, int(run), "") if run.isdigit() and run.isascii() else (0, 0, run) for run in _PARTS.findall(part))
        for part in re.split(r"[-,./]", version)
    )


def _object(value: object, key: str, where: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    if not isinstance(inner, dict):
        raise Malformed(f"{where}: the object {key} is missing")
    return inner
