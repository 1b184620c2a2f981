"""A site's accounts at EC2 as nodes of its own: their agents work in the service's process, with no network between."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from deployer.ec2.accounts import Account
from deployer.ec2.settings import Ec2Settings
from deployer.errors import Conflict
from deployer.site.desired import DesiredState, NodeReport
from deployer.site.placement import EC2
from deployer.site.records import NodeState
from deployer.site.site import Site


class Link:
    """A node's way to its site within one process: what `site_client.SiteClient` is over HTTPS."""

    def __init__(self, site: Site, node: str) -> None:
        self._site, self._node = site, node

    def desired(self, after: int, wait: float) -> DesiredState | None:
        """What the node should have once its revision is another than `after`; None when that has not come in time."""
        if not self._site.store.wait(None, self._node, after, wait):
            return None
        state = self._site.desired(self._node)
        return None if state.revision == after else state

    def report(self, report: NodeReport) -> None:
        """Say how the node is."""
        self._site.absorb(self._node, report)


def connect(site: Site) -> Callable[[Account], tuple[str, Link]]:
    """Has a site know an account as a node of its own: the one of its name, or a new one."""

    def found(account: Account) -> tuple[str, Link]:
        for node in site.store.nodes(contents=False):
            if node.name == account.name and node.state is not NodeState.LEFT:
                if node.kind != EC2:
                    raise Conflict(f"the account {account.name} is called as a node of the site; name it otherwise")
                return node.uuid, Link(site, node.uuid)
        uuid = site.store.add_node(account.name, {}, EC2).uuid
        return uuid, Link(site, uuid)

    return found


@contextmanager
def working(settings: Ec2Settings, site: Site) -> Iterator[None]:
    """Work all accounts of the settings' file while the block runs; without such a file there is nothing to do.

    Raises:
        What `Pools.open` raises.
    """
    if not settings.accounts.exists():
        yield
        return
    from deployer.ec2.working import Pools  # loads AWS's library: only where there is an account

    pools = Pools.open(settings, site.settings, site.policies.current, connect(site), lambda: datetime.now(UTC))
    site.admitting.burst = pools.burst
    try:
        yield
    finally:
        pools.close()
