"""The settings section `catalog`: state directory and addresses of the service, and the catalog that commands use."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from signer.documents import Document
from signer.runtime.settings import state_directory
from signer.x509.ca_directory import DEFAULT_DIRECTORY
from signer.x509.path_validation import CrlPolicy

LISTEN_OR_NOT = r"^((\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5})?$"
"""ADDRESS:PORT, or empty to disable."""


class CatalogSettings(Document):
    """Settings of the catalog service and of the commands that use a catalog.

    Attributes:
        directory: directory of the database and the contents.
        listen: address and port on which the service listens; port 0 takes a free one.
        url: the catalog that `publish`, `image list` and `image fetch` use.
        max_image_bytes: the largest image accepted, in bytes of its contents, holes included.
        pending_days: days after which a pending publication is deleted, unless it is continued.
        tuf_bits: a new TUF repository has 2**tuf_bits hash bins; 12 is right for up to a million images.
        metrics: address and port of the metrics for Prometheus; empty to disable.
        credential: a file with the credential of a site, which commands send when they read from the catalog.
        ca_directory: CAs, signing policies and revocation lists, by which certificates of endorsers are verified.
        crls: "required" refuses certificates of a CA without a current revocation list; "if-present" accepts them.
        tuf_root: the pinned root with which commands verify TUF metadata; without one they trust the catalog.
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
