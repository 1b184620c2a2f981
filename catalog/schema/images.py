"""Documents, limits and range headers that a catalog and its clients exchange about images, VOs and revocations.

Requests are parsed as strictly as any document. Responses may gain members in later versions, so clients ignore unknown
ones; signed parts of a response are checked by signature or address anyway.
"""

import base64
import re
from datetime import datetime
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, JsonValue

from catalog.errors import Malformed, RangeRefused
from catalog.image.address import LEAF, Address
from catalog.image.manifest import MAX_MANIFEST, ImageId, TitledDocument, Vo
from signer.documents import Document, check_base64, example
from signer.openpgp.packets import MAX_SIGNATURE
from signer.statements.endorsement import MAX_STATEMENT
from signer.verification.endorsements import MAX_ENDORSEMENTS

UPLOAD_PART = 8 << 20
"""Bytes that a client sends in one request: an interruption costs at most that, and the cost of a sync is negligible."""

MAX_UPLOAD_PART = 16 << 20
"""Bytes accepted in one upload request."""

MAX_REQUEST_DOCUMENT = 4 << 20
"""Bytes of a request document: the largest manifest, escaped as a JSON string, and some endorsements."""

MAX_RESPONSE = MAX_ENDORSEMENTS * 2 * (MAX_STATEMENT + MAX_SIGNATURE)
"""Bytes of any JSON response: the largest is the longest list of the largest endorsements, with base64 and escapes."""

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
"""Items on a page: by default, and at most."""

MAX_REVOCATION_PAGE = 60
"""Revocations in one response: the largest ones still fit."""

_EXAMPLE_ID = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
_EXAMPLE_ADDRESS = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9-1048576"
_EXAMPLE_KEY = "D1CE0F3A0B1C2D3E4F5061728394A5B6C7D8E9F0"
_EXAMPLE_TIME = "2026-11-22T12:00:00Z"
_EXAMPLE_STATEMENT: dict[str, JsonValue] = {"statement": '{"_type": ...}', "signature": "iHUEABYKAB0WIQ=="}


T = TypeVar("T")


class ResponseModel(Document):
    """Base of responses: members that later versions add are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class SignedStatement(Document):
    """A signed statement: its exact text, and the detached signature in base64."""

    model_config = example(statement='{"_type":"https://in-toto.io/Statement/v1", ...}', signature="iHUEABYKAB0WIQ==")

    statement: Annotated[str, Field(min_length=1, max_length=MAX_STATEMENT)]
    signature: Annotated[str, Field(min_length=1, max_length=MAX_SIGNATURE * 4 // 3 + 4), AfterValidator(check_base64)]

    @classmethod
    def of(cls, statement: bytes, signature: bytes) -> Self:
        """Make a model of the bytes; Malformed if the statement is not UTF-8."""
        try:
            return cls(statement=statement.decode("utf-8"), signature=base64.b64encode(signature).decode("ascii"))
        except UnicodeDecodeError as exc:
            raise Malformed(f"the endorsement is not UTF-8 at byte {exc.start}; endorse the image again") from exc

    def pair(self) -> tuple[bytes, bytes]:
        """(statement, signature) as bytes."""
        return self.statement.encode("utf-8"), base64.b64decode(self.signature)


SignedEndorsements = Annotated[tuple[SignedStatement, ...], Field(min_length=1, max_length=MAX_ENDORSEMENTS)]


class PublicationRequest(Document):
    """A request to publish an image: the canonical text of its manifest, and at least one endorsement of the image."""

    model_config = example(manifest='{"architecture":"x86_64", ...}', endorsements=[_EXAMPLE_STATEMENT])

    manifest: Annotated[str, Field(max_length=MAX_MANIFEST)]
    endorsements: SignedEndorsements


class EndorsementsRequest(Document):
    """A request to add endorsements to a published image."""

    model_config = example(endorsements=[_EXAMPLE_STATEMENT])

    endorsements: SignedEndorsements


class UploadStatus(ResponseModel):
    """The state of an upload.

    Attributes:
        received: (start, end) of each range that is durably stored, in bytes, end exclusive, in order, not adjacent.
        complete: whether the content is verified and complete.
    """

    model_config = example(address=_EXAMPLE_ADDRESS, received=[[0, 16384], [65536, 131072]], complete=False)

    address: Address
    received: tuple[tuple[int, int], ...] = ()
    complete: bool = False


class Publication(ResponseModel):
    """A publication: pending with the missing contents, or published.

    Attributes:
        missing: the contents to upload, in the manifest's order. Zeros need not be sent.
        expires: when the pending publication is deleted, unless it is continued.
    """

    model_config = example(
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


class ImageEntry(TitledDocument, ResponseModel):
    """A published image in a list. `size` is the bytes of its contents, holes included."""

    model_config = example(**_EXAMPLE_IMAGE)

    image_id: ImageId
    architecture: str
    size: int
    published: datetime


class ResponsePage(ResponseModel, Generic[T]):
    """Base of lists that come page by page; `next` is the cursor of the following page, absent on the last."""

    items: tuple[T, ...]
    next: str | None = None


class ImagePage(ResponsePage[ImageEntry]):
    """Published images, newest first; `next` is the cursor of the following page, absent on the last."""

    model_config = example(items=[_EXAMPLE_IMAGE], next="41")


class FlatImage(ResponseModel):
    """A flat image: its size in bytes, and its SHA-512. Read it at `/v1/images/{image_id}/disk.raw`."""

    model_config = example(image_id=_EXAMPLE_ID, size=1073741824, sha512="0e" * 64)

    image_id: ImageId
    size: Annotated[int, Field(gt=0)]
    sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class EndorsementList(ResponseModel):
    """All endorsements of an image that the catalog holds."""

    model_config = example(items=[_EXAMPLE_STATEMENT])

    items: tuple[SignedStatement, ...]


class RevocationPage(ResponsePage[SignedStatement]):
    """Revocations in the order of their acceptance; `next` is the cursor of the following page, absent on the last."""

    model_config = example(items=[_EXAMPLE_STATEMENT])


_EXAMPLE_VO_KEY: dict[str, JsonValue] = {
    "fingerprint": _EXAMPLE_KEY,
    "role": "image-administrator",
    "key": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n...",
}


class VoKey(ResponseModel):
    """A key whose endorsements the catalog accepts for a VO.

    Attributes:
        fingerprint: OpenPGP primary fingerprint, 40 upper-case hex digits; or the subject of a certificate.
        role: the holder's role in the VO.
        key: the armored public key, or the certificate.
    """

    model_config = example(**_EXAMPLE_VO_KEY)

    fingerprint: Annotated[str, Field(pattern=r"^([0-9A-F]{40}|/.{1,1023})$")]
    role: str
    key: str


class VoKeyList(ResponseModel):
    """The registered keys of a VO."""

    model_config = example(vo="star", items=[_EXAMPLE_VO_KEY])

    vo: Vo
    items: tuple[VoKey, ...]


_EXAMPLE_VO: dict[str, JsonValue] = {"name": "star", "registered": _EXAMPLE_TIME, "keys": 1}


class VoEntry(ResponseModel):
    """A registered VO."""

    model_config = example(**_EXAMPLE_VO)

    name: Vo
    registered: datetime
    keys: int


class VoPage(ResponsePage[VoEntry]):
    """Registered VOs by name; `next` as in ImagePage."""

    model_config = example(items=[_EXAMPLE_VO])


_RANGE = re.compile(r"bytes=(?:([0-9]{1,15})-([0-9]{1,15})?|-([0-9]{1,15}))")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")


def parse_range(header: str, size: int) -> tuple[int, int]:
    """(start, end) in bytes, end exclusive, of a Range header (RFC 9110, section 14.1.2) for a content of `size` bytes.

    One range only: `catalog.content.multipart_ranges` parses several. An end past the content is reduced to its size.

    Raises:
        RangeRefused: malformed, several ranges, empty, or outside the content.
    """
    match = _RANGE.fullmatch(header.strip())
    if not match:
        raise RangeRefused(f"the range {header[:60]!r} is malformed; request one range as bytes=FIRST-LAST")
    if match[3] is not None:
        start, end = max(0, size - int(match[3])), size
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    if start >= end:
        raise RangeRefused(f"the range {header[:60]!r} is outside this content, which has {size} bytes")
    return start, end


def parse_content_range(header: str, length: int, address: Address) -> tuple[int, int]:
    """(start, end) of the Content-Range (RFC 9110, section 14.4) of a request that uploads `length` bytes of a content.

    Raises:
        RangeRefused: malformed; size differs from that in the address; outside the content; differs from the length of
            the body; too long; not on leaf boundaries.
    """
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if not match:
        raise RangeRefused(f"Content-Range {header[:60]!r} is malformed; write it as bytes FIRST-LAST/SIZE")
    start, end, size = int(match[1]), int(match[2]) + 1, int(match[3])
    if size != address.size:
        raise RangeRefused(f"Content-Range gives a size of {size} bytes, but the address of the content {address.size}")
    if not start < end <= size:
        raise RangeRefused(f"Content-Range {header[:60]!r} is outside the content, which has {size} bytes")
    if end - start != length:
        raise RangeRefused(f"Content-Range covers {end - start} bytes, but the request body has {length}")
    if length > MAX_UPLOAD_PART:
        raise RangeRefused(f"a request uploads at most {MAX_UPLOAD_PART} bytes, not {length}; send smaller ranges")
    if start % LEAF or (end % LEAF and end != size):
        raise RangeRefused(
            f"an uploaded range begins and ends at a multiple of {LEAF} bytes, or at the end of the content, not {start}-{end}"
        )
    return start, end
