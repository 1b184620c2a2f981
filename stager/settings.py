"""The settings section `node`: a node's cache, catalog, swarm and labels."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from signer.documents import Document
from signer.runtime.settings import state_directory
from signer.runtime.units import ByteSetting, SecondSetting

Label = Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")]


def _at_most_all(shares: dict[str, float]) -> dict[str, float]:
    if sum(shares.values()) > 1:
        raise ValueError("the shares of all VOs add up to more than 1, the whole cache")
    return shares


class NodeSettings(Document):
    """A node's own settings.

    Attributes:
        directory: the node's state; the cache is in `cache` below it.
        cache_quota: bytes that the cache may allocate.
        catalog: the URL of the catalog that the node stages from.
        mirrors: URLs of its mirrors, asked first for contents, and for TUF metadata when the catalog does not answer.
        tuf_root: the pinned root of the catalog's TUF metadata; by default the one that `node trust-root` pinned.
        credential: a file with the site's credential, issued by the catalog's operator; without it the node sees only
            public images.
        connections: HTTP requests in parallel for one content.
        part_bytes: bytes of one request.
        download_limit: bytes per second that staging may receive from the origin, and as many from peers; 0 means no limit.
        upload_limit: bytes per second that this node may send to peers; 0 means no limit.
        swarm: whether the node's service shares contents with other nodes.
        swarm_listen: address and port for peers' connections; port 0 takes a free one.
        site: the label of this node's site: the tracker names nodes of one site to each other first.
        labels: the operator's labels of this node, for the placement of a site's machines.
        shares: for a VO, the part of the cache's quota that is reserved for its images (0.3 is 30 %).
        trash_grace: seconds for which entries that were evicted by hand, or failed a check, stay in the trash.
        scrub_interval: seconds after which a content is read again and compared with its address; 0 is never.
        scrub_rate: bytes per second that scrubbing may read; 0 means no limit.
    """

    directory: Path = Field(default_factory=lambda: state_directory("node"))
    cache_quota: Annotated[ByteSetting, Field(ge=1 << 20)] = 50 << 30
    catalog: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:7070"
    mirrors: tuple[Annotated[str, Field(pattern=r"^https?://")], ...] = ()
    tuf_root: Path | None = None
    credential: Path | None = None
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    part_bytes: Annotated[int, Field(ge=256 << 10, le=1 << 30)] = 8 << 20

    download_limit: Annotated[int, Field(ge=0)] = 0
    upload_limit: Annotated[int, Field(ge=0)] = 0
    swarm: bool = True
    swarm_listen: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5}$")] = "127.0.0.1:0"
    site: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,63}$")] = ""
    labels: Annotated[dict[Label, Label], Field(max_length=32)] = Field(default_factory=dict)
    shares: Annotated[dict[str, Annotated[float, Field(gt=0, le=1)]], AfterValidator(_at_most_all)] = Field(
        default_factory=dict
    )
    trash_grace: SecondSetting = 3600
    scrub_interval: SecondSetting = 7 * 86400
    scrub_rate: Annotated[int, Field(ge=0)] = 32 << 20

    @property
    def cache(self) -> Path:
        """The cache's directory."""
        return self.directory / "cache"

    @property
    def pinned_root(self) -> Path:
        """The file of the root by which this node trusts its catalog."""
        return self.tuf_root or self.freshness / "root.json"

    @property
    def freshness(self) -> Path:
        """The directory of verified TUF metadata."""
        return self.directory / "freshness"
