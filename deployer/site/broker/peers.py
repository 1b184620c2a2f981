"""Who meets whom: the members of clusters as the broker knows them, and what of that a machine, or its owner, is told.

Hundreds of machines that wait ask the same thing each second. What is read for one of them serves all for a moment.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from deployer.errors import Forbidden
from deployer.site.broker.rules import (
    ADDRESS_KEY,
    BrokerMember,
    RoleRequirement,
    assigned_addresses,
    check_key,
    find_peers,
    is_over,
    parse_addresses,
    requirements_of,
)
from deployer.site.broker.schema import ClusterPeers, PeerReadiness, known_hosts_lines
from deployer.site.db import contexts as book
from deployer.site.db.clusters import get_cluster
from deployer.site.db.machines import get_deployment, list_machines
from deployer.site.model.cluster import Cluster
from deployer.site.model.records import ListFilter, SiteMachine
from deployer.site.store.store import SiteStore
from signer.errors import PartitaError
from signer.runtime.paging import walk_pages

PAGE = 1000

FRESH_FOR = 0.5
"""Seconds for which what was read of a cluster serves machines that wait anyway."""

MAX_HELD = 256
"""Clusters of which something is held, and deployments whose cluster is known."""


@dataclass(frozen=True)
class _Circle:
    """A cluster and its members, and when (monotonic seconds) they were read."""

    cluster: Cluster
    members: tuple[BrokerMember, ...]
    read: float

    @cached_property
    def stamp(self) -> int:
        """Another one where something of its members is other that peers are told."""
        return hash(
            tuple(
                (
                    one.machine.uuid,
                    one.standing,
                    is_over(one.machine),
                    one.machine.state,
                    one.addresses,
                    one.machine.host_keys,
                    tuple(one.published.items()),
                )
                for one in self.members
            )
        )


class PeerDirectory:
    """Safe to use from several threads.

    Args:
        store: of the site.
        monotonic: seconds.
        fresh_for: seconds for which what was read serves those who wait; 0 reads each time.
    """

    def __init__(
        self,
        store: SiteStore,
        monotonic: Callable[[], float],
        fresh_for: float,
    ) -> None:
        self._store = store
        self._monotonic, self._fresh_for = monotonic, fresh_for
        self._lock = threading.Lock()
        self._circles: OrderedDict[str, _Circle] = OrderedDict()
        self._homes: OrderedDict[str, str] = OrderedDict()

    def needs(self, machine: SiteMachine) -> tuple[str, dict[str, RoleRequirement]]:
        """A machine's cluster (or an empty text), and what its role needs of others."""
        cluster = self._home(machine.deployment)
        return cluster, requirements_of(self._cluster(cluster), machine.role) if cluster else {}

    def peers(
        self,
        machine: SiteMachine,
        role: str | None = None,
        least: PeerReadiness | None = None,
        *,
        patient: bool = False,
    ) -> ClusterPeers:
        """The peers that a machine requires and that have come far enough.

        Args:
            machine: who asks.
            role, least: see `broker.meet`.
            patient: it waits, and asks again: what was read a moment ago will do.

        Raises:
            Forbidden: it asks for a role that its own does not require.
        """
        cluster = self._home(machine.deployment)
        if not cluster:
            return find_peers(machine, (), {}, role, least)
        circle = self._circle(cluster, self._fresh_for if patient else 0.0)
        return find_peers(machine, circle.members, requirements_of(circle.cluster, machine.role), role, least)

    def stamp(self, machine: SiteMachine) -> int:
        """What is the same for as long as nothing changed in a machine's cluster that its peers are told: cheap to ask again."""
        cluster = self._home(machine.deployment)
        return self._circle(cluster, self._fresh_for).stamp if cluster else 0

    def read(self, machine: SiteMachine, hostname: str, key: str) -> bytes:
        """What a peer published under a key.

        Raises:
            Forbidden: there is no such peer that this machine requires, or it published nothing under that key.
            Misused: that is no key.
        """
        check_key(key)
        found = [
            peer
            for peer in self.peers(machine, least=PeerReadiness.PRESENT).peers
            if hostname in (peer.hostname, peer.machine)
        ]
        if not found:
            raise Forbidden(f"no peer {hostname[:80]!r} is here that this machine requires")
        value = self._store.read(book.published_values, [found[0].machine], key).get(found[0].machine)
        if value is None:
            raise Forbidden(f"{hostname[:80]} has published nothing under {key!r}")
        return value

    def known_hosts(self, deployment: str) -> list[str]:
        """Lines of known_hosts for a deployment's machines: of those whose secret exactly one party showed."""
        machines = self._all(ListFilter(deployment=deployment))
        uuids = [machine.uuid for machine in machines]
        with self._store.database.reading() as connection:
            known = book.get_contacts(connection, uuids)
            said = book.published_values(connection, uuids, ADDRESS_KEY)
        lines: list[str] = []
        for machine in machines:
            contact = known.get(machine.uuid)
            if contact is not None and contact.sound and not is_over(machine):
                addresses = assigned_addresses(machine) or _parsed(said.get(machine.uuid))
                lines += known_hosts_lines(machine.hostname, addresses, machine.host_keys)
        return lines

    def _cluster(self, uuid: str) -> Cluster:
        return Cluster.of(self._store.read(get_cluster, uuid))

    def _home(self, deployment: str) -> str:
        """The cluster that a deployment belongs to, or an empty text; that never changes."""
        with self._lock:
            known = self._homes.get(deployment)
        if known is None:
            known = self._store.read(get_deployment, deployment).cluster or ""
            with self._lock:
                self._homes[deployment] = known
                while len(self._homes) > MAX_HELD:
                    self._homes.popitem(last=False)
        return known

    def _circle(self, cluster: str, age: float) -> _Circle:
        """A cluster as it was read at most so many seconds ago."""
        if age <= 0:
            return self._read(cluster)
        with self._lock:  # those who come meanwhile wait for the one who reads
            held = self._circles.get(cluster)
            if held is None or self._monotonic() - held.read > age:
                held = self._circles[cluster] = self._read(cluster)
                self._circles.move_to_end(cluster)
                while len(self._circles) > MAX_HELD:
                    self._circles.popitem(last=False)
            return held

    def _read(self, cluster: str) -> _Circle:
        began = self._monotonic()
        machines = self._all(ListFilter(cluster=cluster))
        uuids = [machine.uuid for machine in machines]
        with self._store.database.reading() as connection:
            known = book.get_contacts(connection, uuids)
            sizes = book.published_sizes(connection, uuids)
            said = book.published_values(connection, uuids, ADDRESS_KEY)
        members = tuple(
            BrokerMember(machine, known.get(machine.uuid), sizes.get(machine.uuid, {}), _parsed(said.get(machine.uuid)))
            for machine in machines
        )
        return _Circle(self._cluster(cluster), members, began)

    def _all(self, which: ListFilter) -> list[SiteMachine]:
        return list(walk_pages(lambda after: self._store.read(list_machines, which, PAGE, after)))


def _parsed(data: bytes | None) -> tuple[str, ...]:
    try:
        return parse_addresses(data) if data else ()
    except PartitaError:  # a stricter version than the one that let it in
        return ()
