"""The messages of a node and its site when the node joins."""

import re
from typing import Annotated

from pydantic import Field

from catalog.errors import Misused
from deployer.machine.spec import Uuid
from deployer.protocol.deployment_request import NodeLabel
from signer.documents import Document, example


class JoinRequest(Document):
    """A node's request to join a site.

    Attributes:
        token: the secret part.
        request: a certificate request (PKCS #10, PEM) for a P-256 key; its names do not count.
        name: what the node calls itself.
        labels: what its operator says of it.
    """

    model_config = example(
        token="the-part-before-the-point",  # noqa: S106 - an example
        request="-----BEGIN CERTIFICATE REQUEST-----\n...",
        name="worker07",
        labels={"site": "hall-2"},
    )

    token: Annotated[str, Field(min_length=20, max_length=200)]
    request: Annotated[str, Field(max_length=4096)]
    name: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")]
    labels: Annotated[dict[NodeLabel, NodeLabel], Field(max_length=32)] = Field(default_factory=dict)


class JoinResponse(Document):
    """A node's identity, and its certificate (PEM)."""

    node: Uuid
    name: str
    certificate: str


class NodeCertificate(Document):
    """A certificate (PEM)."""

    certificate: str


# The first letter is ours: what begins with a dash would be taken for an option on the command line that it is put into.
_TOKEN = re.compile(r"(j[A-Za-z0-9_-]{20,100})\.([0-9a-f]{64})")


def parse_token(text: str) -> tuple[str, str]:
    """Secret and fingerprint of a token as it is handed over; Misused if it is not valid."""
    found = _TOKEN.fullmatch(text.strip())
    if found is None:
        raise Misused("not a join token; the site's operator gets one with `partita site token`")
    return found[1], found[2]
