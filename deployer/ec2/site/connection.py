"""The connection between a site and its own agents for accounts at EC2: calls within one process."""

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
    """A node's connection to its site within one process, as `NodeSiteClient` is over HTTPS."""

    def __init__(self, site: Site, node: str) -> None:
        self._site, self._node = site, node

    def desired(self, after: int, wait: float) -> DesiredState | None:
        """The node's desired state once its revision is not `after`; None if it stays so for `wait` seconds."""
        if not self._site.store.wait(None, self._node, after, wait):
            return None
        state = self._site.desired(self._node)
        return None if state.revision == after else state

    def report(self, report: NodeReport) -> ReportResponse:
        """Report the state of the node."""
        return self._site.absorb(self._node, report)


def connect_account(site: Site) -> Callable[[Account], tuple[str, LocalSiteConnection]]:
    """A function that registers an account as a node of the site: the one of its name, or a new one."""

    def found(account: Account) -> tuple[str, LocalSiteConnection]:
        for node in site.store.read(list_nodes, contents=False):
            if node.name == account.name and node.state is not NodeState.LEFT:
                if node.kind != EC2:
                    raise Conflict(f"account name {account.name} is already a node's name; choose another name")
                return node.uuid, LocalSiteConnection(site, node.uuid)
        uuid = site.store.write(add_node, account.name, {}, EC2).uuid
        return uuid, LocalSiteConnection(site, uuid)

    return found
