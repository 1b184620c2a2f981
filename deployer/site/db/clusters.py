"""A site's clusters, in the database. Queries only."""

from typing import Any

from sqlalchemy import Connection, insert, select, update

from deployer.errors import ClusterNotFound
from deployer.site.db.documents import DocumentTable, filter_conditions, prefix_condition
from deployer.site.db.tables import clusters
from deployer.site.model.cluster import Cluster
from deployer.site.model.principal import Principal
from deployer.site.model.records import ListFilter

CLUSTERS = DocumentTable(clusters, Cluster, ClusterNotFound)

get_cluster = CLUSTERS.get
"""The cluster of a UUID; ClusterNotFound."""


def insert_cluster(connection: Connection, cluster: Cluster) -> None:
    """A new one."""
    connection.execute(
        insert(clusters).values(
            uuid=cluster.uuid, owner=cluster.owner.identity, vo=cluster.owner.vo, **_changing(cluster)
        )
    )


def write_cluster(connection: Connection, cluster: Cluster) -> None:
    """A cluster as it is now."""
    connection.execute(update(clusters).where(clusters.c.uuid == cluster.uuid).values(_changing(cluster)))


def find_cluster(connection: Connection, text: str, owner: Principal | None = None) -> Cluster:
    """The cluster that a UUID, the beginning of one, or the name of an active cluster means.

    Raises:
        ClusterNotFound: none.
        Misused: several.
    """
    whose = () if owner is None else (clusters.c.owner == owner.identity,)
    by_name = (clusters.c.name == text, clusters.c.active.is_(True), *whose)
    return CLUSTERS.find(connection, text, by_name, (*prefix_condition(clusters.c.uuid, text), *whose))


def list_clusters(
    connection: Connection,
    which: ListFilter = ListFilter(),
    limit: int = 100,
    after: str | None = None,
    *,
    active: bool | None = None,
) -> tuple[tuple[Cluster, ...], str | None]:
    """Up to `limit` clusters (by owner, VO, cluster), the last made first; and, if there are more, what to go on from."""
    conditions = filter_conditions(clusters, which, "owner", "vo")
    if which.cluster is not None:
        conditions.append(clusters.c.uuid == which.cluster)
    if active is not None:
        conditions.append(clusters.c.active.is_(active))
    return CLUSTERS.page(connection, conditions, limit, after)


def active_clusters(connection: Connection) -> list[str]:
    """The UUIDs of the clusters that the controller has to look at, the newest first."""
    query = select(clusters.c.uuid).where(clusters.c.active.is_(True)).order_by(clusters.c.sequence.desc())
    return list(connection.execute(query).scalars())


def _changing(cluster: Cluster) -> dict[str, Any]:
    return {"name": cluster.name, "active": cluster.active, "document": cluster.model_dump_json(exclude_none=True)}
