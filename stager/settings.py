"""The settings section `node`: where a node keeps its cache, how much of it, and where it stages from."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from signer.documents import Document
from signer.settings import state_directory


class NodeSettings(Document):
    """A node's own settings.

    Attributes:
        directory: where the node keeps everything; the cache is in `cache` below it.
        cache_quota: bytes that the cache may allocate.
        catalog: the URL of the catalog that the node stages from.
        mirrors: URLs of mirrors of it, asked for contents first, and for what is current when the catalog cannot answer.
        tuf_root: the pinned root of the catalog's freshness metadata; what `node trust-root` pinned if not set.
        connections: HTTP requests in parallel for one partition.
        part_bytes: bytes asked for in one request.
    """

    directory: Path = Field(default_factory=lambda: state_directory("node"))
    cache_quota: Annotated[int, Field(ge=1 << 20)] = 50 << 30
    catalog: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:7070"
    mirrors: tuple[Annotated[str, Field(pattern=r"^https?://")], ...] = ()
    tuf_root: Path | None = None
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    part_bytes: Annotated[int, Field(ge=256 << 10, le=1 << 30)] = 8 << 20

    @property
    def cache(self) -> Path:
        """The cache's directory."""
        return self.directory / "cache"

    @property
    def pinned_root(self) -> Path:
        """The file with the root that this node believes its catalog by."""
        return self.tuf_root or self.freshness / "root.json"

    @property
    def freshness(self) -> Path:
        """The directory of what was verified to be current."""
        return self.directory / "freshness"
