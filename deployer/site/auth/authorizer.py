"""Authorization of requests: what every route of the site's service begins with.

A principal who may not see an object gets the answer for one that does not exist. A principal who may see it, but not do
that to it, is told so.
"""

import threading
from collections.abc import Callable

from fastapi import Request

from deployer.errors import ClusterNotFound, DeployerError, DeploymentNotFound, Forbidden, NotAuthenticated
from deployer.pki.tls_peer import peer_of
from deployer.site.auth.authenticator import Authenticator
from deployer.site.auth.grants import NODE_MEANS, Denied, Reach, SiteAction, SiteGrants, authorize, reach_of
from deployer.site.model.cluster import Cluster
from deployer.site.model.current_actor import set_actor
from deployer.site.model.principal import Principal
from deployer.site.model.records import Deployment, ListFilter

MAX_OWNERS = 10_000
"""Deployments whose owners are remembered: they never change."""


class SiteAuthorizer:
    """Checks who sends a request and what they may do. Safe to use from several threads.

    Args:
        authenticator: establishes the principal.
        rights: returns the grants in force now.
        node_is_in: raises when a node that authenticated has been removed.
        deployment, cluster: return the one with that UUID.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        rights: Callable[[], SiteGrants],
        node_is_in: Callable[[str], None],
        deployment: Callable[[str], Deployment],
        cluster: Callable[[str], Cluster],
    ) -> None:
        self._authenticator, self.rights = authenticator, rights
        self._node_is_in, self._deployment, self._cluster = node_is_in, deployment, cluster
        self._owners: dict[str, Principal] = {}
        self._lock = threading.Lock()

    def who(self, request: Request) -> Principal:
        """The principal who sends a request: a dependency of routes."""
        peer = peer_of(request)
        return self._authenticator.authenticate(
            request.headers.getlist("authorization"), peer.chain, local=peer.local, address=peer.address
        )

    def who_by(self, token: str, request: Request) -> Principal:
        """The principal of a token that did not come in a header."""
        return self._authenticator.authenticate([f"Bearer {token}"], (), address=peer_of(request).address)

    def person(self, request: Request) -> Principal:
        """The person who sends a request; NotAuthenticated for a node."""
        who = self.who(request)
        if who.means == NODE_MEANS:
            raise NotAuthenticated("this is for people; a node's certificate is not accepted")
        return who

    def reauthenticate(self, request: Request, who: Principal | None = None) -> None:
        """Check a request within a session, or one that tries to begin one; NotAuthenticated, TooManyRequests."""
        self._authenticator.reauthenticate(who, peer_of(request).address)

    def node(self, request: Request) -> str:
        """The UUID of the node that sends a request, by its certificate; a dependency of the agents' routes.

        Raises:
            NotAuthenticated: it presented none. Forbidden: it is not a node, or has been removed.
        """
        who = self.who(request)
        self.demand(who, SiteAction.AGENT)
        self._node_is_in(who.subject)
        return who.subject

    def demand(self, who: Principal, action: SiteAction, owner: Principal | None = None) -> None:
        """Raise Forbidden unless a principal may do that to the owner's objects. They become the current actor."""
        if isinstance(answer := authorize(self.rights(), who, action, owner), Denied):
            raise Forbidden(answer.reason)
        set_actor(who)

    def demand_of(self, who: Principal, action: SiteAction, owner: Principal, missing: DeployerError) -> None:
        """As :meth:`demand`, but raises `missing` where the principal may not even see the object."""
        if not self.allows(who, SiteAction.READ, owner):
            raise missing
        self.demand(who, action, owner)

    def reach(self, who: Principal, action: SiteAction = SiteAction.READ) -> Reach:
        """Whose machines a principal may see, or do something to."""
        return reach_of(self.rights(), who, action)

    def visible(self, who: Principal, wanted: ListFilter) -> ListFilter | None:
        """Restrict a list's filter to what a principal may see; None where that is nothing. Forbidden if they may not read."""
        self.demand(who, SiteAction.READ)
        return restrict_filter(wanted, self.reach(who))

    def allows(self, who: Principal, action: SiteAction, owner: Principal | None = None) -> bool:
        """Whether a principal may do something to the owner's objects, or something that has no owner."""
        return authorize(self.rights(), who, action, owner).allowed

    def owner(self, deployment: str) -> Principal:
        """The owner of a deployment; DeploymentNotFound."""
        return self._owner(deployment, self._deployment)

    def sees(self, found: Reach, deployment: str) -> bool:
        """Whether a deployment is within reach."""
        if found.everything:
            return True
        try:
            return found.covers(self.owner(deployment))
        except DeploymentNotFound:
            return False

    def sees_cluster(self, found: Reach, cluster: str) -> bool:
        """Whether a cluster is within reach."""
        if found.everything:
            return True
        try:
            return found.covers(self._owner(cluster, self._cluster))
        except ClusterNotFound:
            return False

    def _owner(self, uuid: str, find: Callable[[str], Deployment | Cluster]) -> Principal:
        with self._lock:
            known = self._owners.get(uuid)
        if known is None:
            known = find(uuid).owner
            with self._lock:
                if len(self._owners) >= MAX_OWNERS:
                    self._owners.clear()
                self._owners[uuid] = known
        return known


def restrict_filter(wanted: ListFilter, found: Reach) -> ListFilter | None:
    """Restrict a list's filter to what is within reach; None where nothing is."""
    if found.everything:
        return wanted
    if found.vos:
        vo = wanted.vo or min(found.vos)
        return wanted.model_copy(update={"vo": vo}) if vo in found.vos else None
    if not found.owner or wanted.owner not in {None, found.owner}:
        return None
    return wanted.model_copy(update={"owner": found.owner})
