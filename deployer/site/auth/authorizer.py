"""Who asks, and whether they may: what every route of the site's service begins with.

Somebody who may not see a thing gets the answer for one that does not exist. Somebody who may see it, and not do that to
it, is told so.
"""

import threading
from collections.abc import Callable

from fastapi import Request

from deployer.errors import ClusterNotFound, DeployerError, DeploymentNotFound, Forbidden, NotAuthenticated
from deployer.pki.tls_peer import peer_of
from deployer.site.auth.authenticator import Authenticator
from deployer.site.auth.grants import NODE_MEANS, Denied, Reach, SiteAction, SiteGrants, authorize, reach_of
from deployer.site.model.current_actor import set_actor
from deployer.site.model.principal import Principal
from deployer.site.model.records import Deployment, ListFilter, SiteCluster

MAX_OWNERS = 10_000
"""Deployments whose owners are remembered: they never change."""


class SiteAuthorizer:
    """Safe to use from several threads.

    Args:
        authenticator: see there.
        rights: of the site, as they are now.
        node_is_in: raises when a node that authenticated has been taken out.
        deployment, cluster: find one.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        rights: Callable[[], SiteGrants],
        node_is_in: Callable[[str], None],
        deployment: Callable[[str], Deployment],
        cluster: Callable[[str], SiteCluster],
    ) -> None:
        self._authenticator, self.rights = authenticator, rights
        self._node_is_in, self._deployment, self._cluster = node_is_in, deployment, cluster
        self._owners: dict[str, Principal] = {}
        self._lock = threading.Lock()

    def who(self, request: Request) -> Principal:
        """Who sends a request: a dependency of routes."""
        peer = peer_of(request)
        return self._authenticator.authenticate(
            request.headers.getlist("authorization"), peer.chain, local=peer.local, address=peer.address
        )

    def who_by(self, token: str, request: Request) -> Principal:
        """Whom a token speaks for that came in another way than in a header."""
        return self._authenticator.authenticate([f"Bearer {token}"], (), address=peer_of(request).address)

    def person(self, request: Request) -> Principal:
        """Who sends a request, if that is a person; NotAuthenticated for a node."""
        who = self.who(request)
        if who.means == NODE_MEANS:
            raise NotAuthenticated("a node has nothing to do here")
        return who

    def again(self, request: Request, who: Principal | None = None) -> None:
        """A request of somebody who has a session, or tries to begin one; NotAuthenticated, TooManyRequests."""
        self._authenticator.again(who, peer_of(request).address)

    def node(self, request: Request) -> str:
        """The UUID of the node that sends a request, by its certificate; a dependency of the agents' routes.

        Raises:
            NotAuthenticated: it showed none. Forbidden: it is somebody else, or has left.
        """
        who = self.who(request)
        self.demand(who, SiteAction.AGENT)
        self._node_is_in(who.subject)
        return who.subject

    def demand(self, who: Principal, action: SiteAction, owner: Principal | None = None) -> None:
        """Raise Forbidden unless somebody may do that, to what belongs to an owner. They are who acts from now on."""
        said = authorize(self.rights(), who, action, owner)
        if isinstance(said, Denied):
            raise Forbidden(said.reason)
        set_actor(who)

    def demand_of(self, who: Principal, action: SiteAction, owner: Principal, missing: DeployerError) -> None:
        """As :meth:`demand`, but raises `missing` where they may not even see it."""
        rights = self.rights()
        if isinstance(authorize(rights, who, SiteAction.READ, owner), Denied):
            raise missing
        if isinstance(said := authorize(rights, who, action, owner), Denied):
            raise Forbidden(said.reason)
        set_actor(who)

    def reach(self, who: Principal, action: SiteAction = SiteAction.READ) -> Reach:
        """Whose machines somebody may see, or do something to."""
        return reach_of(self.rights(), who, action)

    def allows(self, who: Principal, action: SiteAction) -> bool:
        """Whether somebody may do what is nobody's in particular."""
        return not isinstance(authorize(self.rights(), who, action), Denied)

    def owner(self, deployment: str) -> Principal:
        """Whose a deployment is; DeploymentNotFound."""
        return self._owner(deployment, self._deployment)

    def sees(self, found: Reach, deployment: str) -> bool:
        """Whether a deployment is within somebody's reach."""
        if found.everything:
            return True
        try:
            return found.covers(self.owner(deployment))
        except DeploymentNotFound:
            return False

    def sees_cluster(self, found: Reach, cluster: str) -> bool:
        """Whether a cluster is within somebody's reach."""
        if found.everything:
            return True
        try:
            return found.covers(self._owner(cluster, self._cluster))
        except ClusterNotFound:
            return False

    def _owner(self, uuid: str, find: Callable[[str], Deployment | SiteCluster]) -> Principal:
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
    """What of a list is within reach; None for nothing."""
    if found.everything:
        return wanted
    if found.vos:
        vo = wanted.vo or min(found.vos)
        return wanted.model_copy(update={"vo": vo}) if vo in found.vos else None
    if not found.owner or wanted.owner not in {None, found.owner}:
        return None
    return wanted.model_copy(update={"owner": found.owner})
