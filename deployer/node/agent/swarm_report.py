"""What a node tells its site of the swarm: from whom the contents came that are arriving, or came lately."""

from catalog.image.address import Address
from deployer.protocol.swarm_report import ContentFeed, SwarmReport
from stager.content.transfer_stats import TransferProgress
from stager.staging import Stager

MAX_REPORTED = 16
"""Contents that are told of: those that are arriving, then those that came last. A report stays within some kilobytes."""


def build_swarm_report(stager: Stager) -> SwarmReport | None:
    """What there is to tell now; None of a node that takes part in no swarm and fetched nothing lately.

    It is the same from one look to the next while nothing arrives, so that an idle node's reports stay the same.
    """
    name = stager.sharing.name if stager.sharing is not None else ""
    contents: dict[Address, ContentFeed] = {}
    for one in (*stager.transfers.snapshot(), *stager.transfers.recent()):
        if (one.from_peers or one.from_origin) and len(contents) < MAX_REPORTED:
            contents.setdefault(one.address, _feed(one))
    return SwarmReport(name=name, contents=tuple(contents.values())) if name or contents else None


def _feed(one: TransferProgress) -> ContentFeed:
    return ContentFeed(
        address=str(one.address),
        image=one.image,
        arriving=one.ended is None,
        from_peers=one.from_peers,
        from_origin=one.from_origin,
        origin_rate=int(one.origin_rate),
        feeders=one.feeders,
    )
