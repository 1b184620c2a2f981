"""The way between a site and its own agents for accounts at EC2: calls within one process."""

from collections.abc import Callable

from catalog.errors import Conflict
from deployer.ec2.model.accounts import Account
from deployer.protocol.desired_state import DesiredState, NodeReport, ReportResponse
from deployer.site.db.nodes import list_nodes
from deployer.site.model.records import NodeState
from deployer.site.scheduling.placement import EC2
from deployer.site.service.site import Site
from deployer.site.store.changes import add_node


class LocalSiteConnection:
    """A node's way to its site within one process: what `NodeSiteClient` is over HTTPS."""

    def __init__(self, site: Site, node: str) -> None:
        self._site, self._node = site, node

    def desired(self, after: int, wait: float) -> DesiredState | None:
        """What the node should have once its revision is another than `after`; None when that has not come in time."""
        if not self._site.store.wait(None, self._node, after, wait):
            return None
        state = self._site.desired(self._node)
        return None if state.revision == after else state

    def report(self, report: NodeReport) -> ReportResponse:
        """Say how the node is."""
        return self._site.absorb(self._node, report)


def connect_account(site: Site) -> Callable[[Account], tuple[str, LocalSiteConnection]]:
    """Has a site know an account as a node of its own: the one of its name, or a new one."""

    def found(account: Account) -> tuple[str, LocalSiteConnection]:
        for node in site.store.read(list_nodes, contents=False):
            if node.name == account.name and node.state is not NodeState.LEFT:
                if node.kind != EC2:
                    raise Conflict(f"the account {account.name} is called as a node of the site; name it otherwise")
                return node.uuid, LocalSiteConnection(site, node.uuid)
        uuid = site.store.write(add_node, account.name, {}, EC2).uuid
        return uuid, LocalSiteConnection(site, uuid)

    return found
