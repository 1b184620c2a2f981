"""What commands and a node's service say to each other about contents: what is arriving, fetched ahead, pinned."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from catalog.image.address import Address
from catalog.image.manifest import ImageId
from signer.documents import Document
from stager.content.peer_stats import PeerStats
from stager.content.transfer_stats import TransferStage

Whole = Annotated[int, BeforeValidator(lambda value: int(value) if isinstance(value, float) else value)]
"""A number without its fraction."""


class ContentStatus(Document):
    """How one content that is arriving stands; bytes, bytes per second, seconds.

    Attributes:
        image: of which it is a part.
        stage: what is being done: preparing, copying, fetching, swarming, verifying.
        have: of `size`, what is settled: proved, or zero.
        from_cache: copied from other contents here, or left by an interrupted staging.
        from_peers, from_origin: payload that came over the network.
        left: until it is here at this rate; absent if unknown.
        peers: connected now.
        feeders: the peers that sent the most of `from_peers`.
        origin_rate: of `rate`, what comes from the origin.
        ended: seconds since it came to an end; absent while it is arriving.
    """

    address: Address
    image: str
    stage: TransferStage
    size: int
    have: int
    from_cache: int
    from_peers: int
    from_origin: int
    rate: Whole
    left: Whole | None = None
    peers: int = 0
    feeders: tuple[PeerStats, ...] = ()
    origin_rate: Whole = 0
    ended: Whole | None = None


class PinStatus(Document):
    """An image that is kept until it is unpinned."""

    image_id: str
    contents: int


class SwarmStatus(Document):
    """A node's part in swarms: contents offered, the port for peers, peers connected, payload bytes sent to them, and what
    it calls itself to them.
    """

    contents: int
    port: int
    peers: int
    sent: int
    name: str = ""


class StagingStatus(Document):
    """The node's contents.

    Attributes:
        arriving: in the order in which they began.
        quota, allocated, reserved, leased, trash: bytes of the cache, as `stager.cache.entries.CacheUsage`.
        pins: by image ID.
        swarm: absent where the node takes part in none.
        lately: what came over the network within the last minutes, the last first.
    """

    arriving: tuple[ContentStatus, ...]
    quota: int
    allocated: int
    reserved: int
    leased: int
    trash: int
    pins: tuple[PinStatus, ...]
    swarm: SwarmStatus | None = None
    lately: tuple[ContentStatus, ...] = ()


MAX_KEEP = 366 * 86400
"""Seconds for which an image may be fetched ahead of its use; what is to stay longer is pinned."""


class PrefetchOrder(Document):
    """An image to have here ahead of its use.

    Attributes:
        image: an image ID, VO/NAME@VERSION or VO/NAME.
        pin: keep it until it is unpinned.
        keep: else keep it for so many seconds.
    """

    image: Annotated[str, Field(min_length=1, max_length=300)]
    pin: bool = False
    keep: Annotated[int, Field(ge=0, le=MAX_KEEP)] = 86400


class PrefetchResult(Document):
    """What came of it: bytes by where they came from, and blanks made."""

    image_id: ImageId
    title: str
    from_cache: int
    from_peers: int
    from_origin: int
    blanks_made: int


class PrefetchStep(Document):
    """One line of a prefetch's progress: bytes settled of all; in the last line the result or the problem (RFC 9457)."""

    done: int = 0
    total: int = 0
    result: PrefetchResult | None = None
    problem: dict[str, Any] | None = None


class UnpinResult(Document):
    """How many things of an image were held by its pin."""

    image_id: ImageId
    released: int
