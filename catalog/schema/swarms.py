"""How a node asks for the right to take part in a swarm, and what it gets. Shared by both sides."""

from typing import Annotated

from pydantic import ConfigDict, Field

from catalog.image.address import Address
from catalog.schema.images import ResponseModel
from signer.documents import Document
from signer.statements.endorsement import Instant

NODE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"

_ADDRESS = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9-1073741824"


class SwarmGrantQuery(Document):
    """A node asks to take part in a content's swarm.

    Attributes:
        address: the content.
        node: how the node calls itself.
        request: a certificate request (PKCS #10, PEM, P-256), needed where the content is restricted.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"address": _ADDRESS, "node": "worker-17"}]})

    address: Address
    node: Annotated[str, Field(pattern=NODE_PATTERN)]
    request: Annotated[str, Field(max_length=4096)] | None = None


class SwarmGrant(ResponseModel):
    """What opens a swarm.

    Attributes:
        grant: the announce key.
        expires: until when it, and the certificate, are good.
        authority: of a restricted content: the certificate (PEM) that is part of its info dict.
        certificate: of a restricted content: the node's certificate (PEM).
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"grant": "worker-17.lyon.1795435200.MAC", "expires": "2026-11-22T12:00:00Z"}]}
    )

    grant: Annotated[str, Field(max_length=256)]
    expires: Instant
    authority: Annotated[str, Field(max_length=16384)] | None = None
    certificate: Annotated[str, Field(max_length=16384)] | None = None
