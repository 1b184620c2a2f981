"""Requests and grants of the right to take part in a swarm."""

from typing import Annotated

from pydantic import Field

from catalog.image.address import Address
from catalog.schema.images import ResponseModel
from signer.documents import Document, example
from signer.statements.endorsement import Instant

NODE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"

_ADDRESS = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9-1073741824"


class SwarmGrantQuery(Document):
    """A node's request to take part in the swarm of a content.

    Attributes:
        address: the content.
        node: the node's name.
        request: a certificate request (PKCS #10, PEM, P-256), needed if the content is restricted.
    """

    model_config = example(address=_ADDRESS, node="worker-17")

    address: Address
    node: Annotated[str, Field(pattern=NODE_PATTERN)]
    request: Annotated[str, Field(max_length=4096)] | None = None


class SwarmGrant(ResponseModel):
    """The right to take part in a swarm.

    Attributes:
        grant: the announce key.
        expires: when the key and the certificate expire.
        authority: for a restricted content: the CA certificate (PEM) in its info dict.
        certificate: for a restricted content: the node's certificate (PEM).
    """

    model_config = example(grant="worker-17.lyon.1795435200.MAC", expires="2026-11-22T12:00:00Z")

    grant: Annotated[str, Field(max_length=256)]
    expires: Instant
    authority: Annotated[str, Field(max_length=16384)] | None = None
    certificate: Annotated[str, Field(max_length=16384)] | None = None
