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
        connections: HTTP requests in parallel for one partition.
        part_bytes: bytes asked for in one request.
    """

    directory: Path = Field(default_factory=lambda: state_directory("node"))
    cache_quota: Annotated[int, Field(ge=1 << 20)] = 50 << 30
    catalog: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:7070"
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    part_bytes: Annotated[int, Field(ge=256 << 10, le=1 << 30)] = 8 << 20

    @property
    def cache(self) -> Path:
        """The cache's directory."""
        return self.directory / "cache"
