"""The directory of peers: a cluster's members as the broker knows them, and what a machine, or its owner, may see of them.

Hundreds of waiting machines ask the same each second. What is read for one of them serves all for a moment.
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
    parse_addresses,
    requirements_of,
)
from deployer.site.broker.schema import ClusterPeers, PeerReadiness, known_hosts_lines
from deployer.site.db import contexts
from deployer.site.db.clusters import get_cluster
from deployer.site.db.machines import get_deployment, list_machines
from deployer.site.model.cluster import Cluster
from deployer.site.model.records import ListFilter, SiteMachine
from deployer.site.store.store import SiteStore
from signer.errors import PartitaError
from signer.runtime.paging import walk_pages

PAGE = 1000

FRESH_FOR = 0.5
"""Seconds for which a read cluster serves machines that wait."""

MAX_HELD = 256
"""Clusters that are kept, and deployments whose cluster is known."""


@dataclass(frozen=True)
class _ClusterSnapshot:
    """A cluster and its members, and when (monotonic seconds) they were read."""

    cluster: Cluster
    members: tuple[BrokerMember, ...]
    read: float

    @cached_property
    def stamp(self) -> int:
        """A number that changes with anything about the members that peers can see."""
        return hash(
            tuple(
                (
                    one.machine.uuid,
                    one.standing,
                    one.machine.ending,
                    one.machine.state,
                    one.addresses,
                    one.machine.host_keys,
                    tuple(one.published.items()),
                )
                for one in self.members
            )
        )


class PeerDirectory:
    """Finds the peers of machines. Safe to use from several threads.

    Args:
        store: of the site.
        monotonic: seconds.
        fresh_for: seconds for which a read cluster serves requests that wait; 0 reads each time.
    """

    def __init__(self, store: SiteStore, monotonic: Callable[[], float], fresh_for: float) -> None:
        self._store = store
        self._monotonic, self._fresh_for = monotonic, fresh_for
        self._lock = threading.Lock()
        self._snapshots: OrderedDict[str, _ClusterSnapshot] = OrderedDict()
        self._clusters: OrderedDict[str, str] = OrderedDict()

    def needs(self, machine: SiteMachine) -> tuple[str, dict[str, RoleRequirement]]:
        """A machine's cluster (or an empty string), and the requirements of its role, by role."""
        cluster = self._cluster_of(machine.deployment)
        return cluster, requirements_of(self._store.read(get_cluster, cluster), machine.role) if cluster else {}

    def peers(
        self,
        machine: SiteMachine,
        role: str | None = None,
        least: PeerReadiness | None = None,
        *,
        patient: bool = False,
    ) -> ClusterPeers:
        """The peers that a machine requires and that are far enough.

        Args:
            machine: that asks.
            role, least: see `rules.find_peers`.
            patient: the machine waits and asks again, so a snapshot that was read a moment ago is enough.

        Raises:
            Forbidden: it asks for a role that its own does not require.
        """
        cluster = self._cluster_of(machine.deployment)
        if not cluster:
            return find_peers(machine, (), {}, role, least)
        found = self._snapshot(cluster, self._fresh_for if patient else 0.0)
        return find_peers(machine, found.members, requirements_of(found.cluster, machine.role), role, least)

    def stamp(self, machine: SiteMachine) -> int:
        """A number that stays the same until something changes in a machine's cluster that its peers can see; cheap."""
        cluster = self._cluster_of(machine.deployment)
        return self._snapshot(cluster, self._fresh_for).stamp if cluster else 0

    def read(self, machine: SiteMachine, hostname: str, key: str) -> bytes:
        """The value that a peer published under a key.

        Raises:
            Forbidden: the machine requires no such peer, or the peer published nothing under that key.
            Misused: not a valid key.
        """
        check_key(key)
        found = [
            peer
            for peer in self.peers(machine, least=PeerReadiness.PRESENT).peers
            if hostname in (peer.hostname, peer.machine)
        ]
        if not found:
            raise Forbidden(f"this machine requires no peer {hostname[:80]!r}, or it is not present yet")
        value = self._store.read(contexts.published_values, [found[0].machine], key).get(found[0].machine)
        if value is None:
            raise Forbidden(f"{hostname[:80]} has published nothing under {key!r}")
        return value

    def known_hosts(self, deployment: str) -> list[str]:
        """Lines of known_hosts for a deployment's machines: of those whose secret was used by exactly one party."""
        machines = self._all(ListFilter(deployment=deployment))
        uuids = [machine.uuid for machine in machines]
        with self._store.database.reading() as connection:
            known = contexts.get_contacts(connection, uuids)
            said = contexts.published_values(connection, uuids, ADDRESS_KEY)
        lines: list[str] = []
        for machine in machines:
            contact = known.get(machine.uuid)
            if contact is not None and contact.sound and not machine.ending:
                addresses = assigned_addresses(machine) or _parsed(said.get(machine.uuid))
                lines += known_hosts_lines(machine.hostname, addresses, machine.host_keys)
        return lines

    def _cluster_of(self, deployment: str) -> str:
        """The cluster that a deployment belongs to, or an empty string; it never changes."""
        with self._lock:
            known = self._clusters.get(deployment)
        if known is None:
            known = self._store.read(get_deployment, deployment).cluster or ""
            with self._lock:
                self._clusters[deployment] = known
                while len(self._clusters) > MAX_HELD:
                    self._clusters.popitem(last=False)
        return known

    def _snapshot(self, cluster: str, age: float) -> _ClusterSnapshot:
        """A cluster as it was read at most `age` seconds ago."""
        if age <= 0:
            return self._read(cluster)
        with self._lock:  # other threads wait for the one that reads
            held = self._snapshots.get(cluster)
            if held is None or self._monotonic() - held.read > age:
                held = self._snapshots[cluster] = self._read(cluster)
                self._snapshots.move_to_end(cluster)
                while len(self._snapshots) > MAX_HELD:
                    self._snapshots.popitem(last=False)
            return held

    def _read(self, cluster: str) -> _ClusterSnapshot:
        began = self._monotonic()
        machines = self._all(ListFilter(cluster=cluster))
        uuids = [machine.uuid for machine in machines]
        with self._store.database.reading() as connection:
            known = contexts.get_contacts(connection, uuids)
            sizes = contexts.published_sizes(connection, uuids)
            said = contexts.published_values(connection, uuids, ADDRESS_KEY)
        members = tuple(
            BrokerMember(machine, known.get(machine.uuid), sizes.get(machine.uuid, {}), _parsed(said.get(machine.uuid)))
            for machine in machines
        )
        return _ClusterSnapshot(self._store.read(get_cluster, cluster), members, began)

    def _all(self, which: ListFilter) -> list[SiteMachine]:
        return list(walk_pages(lambda after: self._store.read(list_machines, which, PAGE, after)))


def _parsed(data: bytes | None) -> tuple[str, ...]:
    try:
        return parse_addresses(data) if data else ()
    except PartitaError:  # accepted by a version with laxer rules
        return ()
