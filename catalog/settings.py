"""The settings section `catalog`: where a catalog keeps its state, where it listens, and which one commands talk to."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from signer.documents import Document
from signer.runtime.settings import state_directory
from signer.x509.ca_directory import DEFAULT_DIRECTORY
from signer.x509.path_validation import CrlPolicy

LISTEN_OR_NOT = r"^((\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5})?$"
"""ADDRESS:PORT, or empty for nowhere."""


class CatalogSettings(Document):
    """Settings of the catalog service and of the commands that talk to one.

    Attributes:
        directory: where the service keeps its database and content.
        listen: address and port that the service listens on; port 0 takes a free one.
        url: the catalog that `publish`, `image list` and `image fetch` talk to.
        max_image_bytes: the largest image accepted, in bytes of its content, holes included.
        pending_days: how long a publication that nobody continues is kept, in days.
        tuf_bits: the hash bins of a freshness repository made now are 2**tuf_bits; 12 is right for up to a million images.
        metrics: address and port where the service gives its figures to Prometheus; empty for none.
        credential: a file with the credential of a site, shown to the catalog by commands that read from it.
        ca_directory: CAs, signing policies and revocation lists, by which certificates of endorsers are judged.
        crls: "required" refuses where a CA has no current revocation list; "if-present".
        tuf_root: the root that commands here believe freshness metadata by; without one they believe the catalog.
    """

    directory: Path = Field(default_factory=lambda: state_directory("catalog"))
    listen: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")] = "127.0.0.1:7070"
    metrics: Annotated[str, Field(pattern=LISTEN_OR_NOT)] = ""
    url: str = "http://127.0.0.1:7070"
    max_image_bytes: Annotated[int, Field(ge=1)] = 4 << 40
    pending_days: Annotated[int, Field(ge=1, le=365)] = 7
    tuf_bits: Annotated[int, Field(ge=1, le=16)] = 12
    tuf_root: Path | None = None
    ca_directory: Path = DEFAULT_DIRECTORY
    crls: CrlPolicy = "required"
    credential: Path | None = None
