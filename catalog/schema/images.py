"""What travels between a catalog and its clients: the documents, the limits and the range headers. Shared by both sides.

What a client sends is parsed as strictly as any document. What a catalog answers may gain members in later versions, so a
client ignores those that it does not know; what is signed in an answer is checked by its signature or address anyway.
"""

import base64
import binascii
import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue

from catalog.errors import Malformed, RangeRefused
from catalog.image.address import LEAF, Address
from catalog.image.bundle import MAX_SIGNATURE, MAX_STATEMENT
from catalog.image.manifest import MAX_MANIFEST, ImageId, Name, Version, Vo
from signer.documents import Document
from signer.verification.endorsements import MAX_ENDORSEMENTS

UPLOAD_PART = 8 << 20
"""Bytes that a client sends in one request: a cut costs at most that much, and a sync per part does not count."""

MAX_UPLOAD_PART = 16 << 20
"""Bytes accepted in one upload request."""

MAX_REQUEST_DOCUMENT = 4 << 20
"""Bytes of a request document: a manifest of the largest size, escaped as a JSON string, and some endorsements."""

MAX_RESPONSE = MAX_ENDORSEMENTS * 2 * (MAX_STATEMENT + MAX_SIGNATURE)
"""Bytes of any JSON answer: the largest is a list of the most and largest endorsements, base64 and escapes counted."""

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
"""Items on a page: unless asked otherwise, and at most."""

_EXAMPLE_ID = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
_EXAMPLE_ADDRESS = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9-1048576"
_EXAMPLE_KEY = "D1CE0F3A0B1C2D3E4F5061728394A5B6C7D8E9F0"
_EXAMPLE_TIME = "2026-11-22T12:00:00Z"


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError("is not base64") from exc
    return text


class ResponseModel(Document):
    """Base of what a catalog answers: members added by later versions are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


def _example(**members: JsonValue) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [members]})


class SignedStatement(Document):
    """An endorsement as it travels: the statement's exact text, and the detached signature in base64."""

    model_config = _example(statement='{"_type":"https://in-toto.io/Statement/v1", ...}', signature="iHUEABYKAB0WIQ==")

    statement: Annotated[str, Field(min_length=1, max_length=MAX_STATEMENT)]
    signature: Annotated[str, Field(min_length=1, max_length=MAX_SIGNATURE * 4 // 3 + 4), AfterValidator(_base64)]

    @classmethod
    def of(cls, statement: bytes, signature: bytes) -> Self:
        """From the bytes; Malformed if the statement is not text."""
        try:
            return cls(statement=statement.decode("utf-8"), signature=base64.b64encode(signature).decode("ascii"))
        except UnicodeDecodeError as exc:
            raise Malformed(
                f"an endorsement statement is not UTF-8 at byte {exc.start}; endorse the image again"
            ) from exc

    def pair(self) -> tuple[bytes, bytes]:
        """(statement, signature) as bytes."""
        return self.statement.encode("utf-8"), base64.b64decode(self.signature)


SignedEndorsements = Annotated[tuple[SignedStatement, ...], Field(min_length=1, max_length=MAX_ENDORSEMENTS)]


class PublicationRequest(Document):
    """Asks to publish an image: the manifest's canonical text and at least one endorsement of that very image."""

    model_config = _example(
        manifest='{"architecture":"x86_64", ...}',
        endorsements=[{"statement": '{"_type": ...}', "signature": "iHUEABYKAB0WIQ=="}],
    )

    manifest: Annotated[str, Field(max_length=MAX_MANIFEST)]
    endorsements: SignedEndorsements


class EndorsementsRequest(Document):
    """Adds endorsements to an image that is published."""

    model_config = _example(endorsements=[{"statement": '{"_type": ...}', "signature": "iHUEABYKAB0WIQ=="}])

    endorsements: SignedEndorsements


class UploadStatus(ResponseModel):
    """What has arrived of a blob that is being uploaded.

    Attributes:
        received: (start, end) of each range that is safely stored, in bytes, end exclusive, in order, apart.
        complete: whether the blob is verified and needs nothing more.
    """

    model_config = _example(address=_EXAMPLE_ADDRESS, received=[[0, 16384], [65536, 131072]], complete=False)

    address: Address
    received: tuple[tuple[int, int], ...] = ()
    complete: bool = False


class Publication(ResponseModel):
    """A publication: pending with the blobs that are missing, or published.

    Attributes:
        missing: the blobs to send, in the manifest's order. Zeros need not be sent.
        expires: when a pending publication that nobody continues is forgotten.
    """

    model_config = _example(
        image_id=_EXAMPLE_ID,
        state="pending",
        missing=[{"address": _EXAMPLE_ADDRESS, "received": [[0, 16384]], "complete": False}],
        expires=_EXAMPLE_TIME,
    )

    image_id: ImageId
    state: Literal["pending", "published"]
    missing: tuple[UploadStatus, ...] = ()
    expires: datetime | None = None


_EXAMPLE_IMAGE: dict[str, JsonValue] = {
    "image_id": _EXAMPLE_ID,
    "vo": "star",
    "name": "worker",
    "version": "2026.11",
    "architecture": "x86_64",
    "size": 4 << 30,
    "published": _EXAMPLE_TIME,
}


class ImageEntry(ResponseModel):
    """A published image in a list. `size` is the bytes of its content, holes included."""

    model_config = _example(**_EXAMPLE_IMAGE)

    image_id: ImageId
    vo: Vo
    name: Name
    version: Version
    architecture: str
    size: int
    published: datetime


class ImagePage(ResponseModel):
    """Published images, newest first; `next` is the cursor of the following page, absent on the last."""

    model_config = _example(items=[_EXAMPLE_IMAGE], next="41")

    items: tuple[ImageEntry, ...]
    next: str | None = None


class EndorsementList(ResponseModel):
    """All endorsements of an image that the catalog holds."""

    model_config = _example(items=[{"statement": '{"_type": ...}', "signature": "iHUEABYKAB0WIQ=="}])

    items: tuple[SignedStatement, ...]


_EXAMPLE_VO_KEY: dict[str, JsonValue] = {
    "fingerprint": _EXAMPLE_KEY,
    "role": "image-administrator",
    "key": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n...",
}


class VoKey(ResponseModel):
    """A key whose endorsements the catalog accepts for a VO.

    Attributes:
        fingerprint: OpenPGP primary fingerprint, 40 upper-case hex digits; or the subject of a certificate.
        role: the role that its holder has in the VO.
        key: the armored public key, or the certificate.
    """

    model_config = _example(**_EXAMPLE_VO_KEY)

    fingerprint: Annotated[str, Field(pattern=r"^([0-9A-F]{40}|/.{1,1023})$")]
    role: str
    key: str


class VoKeyList(ResponseModel):
    """The registered keys of a VO."""

    model_config = _example(vo="star", items=[_EXAMPLE_VO_KEY])

    vo: Vo
    items: tuple[VoKey, ...]


_EXAMPLE_VO: dict[str, JsonValue] = {"name": "star", "registered": _EXAMPLE_TIME, "keys": 1}


class VoEntry(ResponseModel):
    """A registered VO."""

    model_config = _example(**_EXAMPLE_VO)

    name: Vo
    registered: datetime
    keys: int


class VoPage(ResponseModel):
    """Registered VOs by name; `next` as in ImagePage."""

    model_config = _example(items=[_EXAMPLE_VO])

    items: tuple[VoEntry, ...]
    next: str | None = None


_RANGE = re.compile(r"bytes=(?:([0-9]{1,15})-([0-9]{1,15})?|-([0-9]{1,15}))")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")


def parse_range(header: str, size: int) -> tuple[int, int]:
    """(start, end) in bytes, end exclusive, of a Range header (RFC 9110, section 14.1.2) on a blob of `size` bytes.

    One range only: `catalog.content.multipart_ranges` reads several. An end past the blob is cut to it.

    Raises:
        RangeRefused: malformed, several ranges, empty, or outside the blob.
    """
    match = _RANGE.fullmatch(header.strip())
    if not match:
        raise RangeRefused(f"the range {header[:60]!r} is not understood; ask for one range as bytes=FIRST-LAST")
    if match[3] is not None:
        start, end = max(0, size - int(match[3])), size
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    if start >= end:
        raise RangeRefused(f"the range {header[:60]!r} holds no byte of this blob, which has {size} bytes")
    return start, end


def parse_content_range(header: str, length: int, address: Address) -> tuple[int, int]:
    """(start, end) of an upload's Content-Range (RFC 9110, section 14.4) that brings `length` bytes of a blob.

    Raises:
        RangeRefused: malformed; another size than the address says; outside the blob; not as long as the body; too
            long; not on a leaf's boundary.
    """
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if not match:
        raise RangeRefused(f"Content-Range {header[:60]!r} is not understood; write it as bytes FIRST-LAST/SIZE")
    start, end, size = int(match[1]), int(match[2]) + 1, int(match[3])
    if size != address.size:
        raise RangeRefused(f"Content-Range says the blob has {size} bytes, and its address says {address.size}")
    if not start < end <= size:
        raise RangeRefused(f"Content-Range {header[:60]!r} lies outside the blob, which has {size} bytes")
    if end - start != length:
        raise RangeRefused(f"Content-Range names {end - start} bytes, and the request brings {length}")
    if length > MAX_UPLOAD_PART:
        raise RangeRefused(f"one request brings at most {MAX_UPLOAD_PART} bytes, not {length}; send smaller parts")
    if start % LEAF or (end % LEAF and end != size):
        raise RangeRefused(
            f"a part begins and ends on a multiple of {LEAF} bytes, or at the blob's end; found {start}-{end}"
        )
    return start, end
