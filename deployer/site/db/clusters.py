"""A site's clusters, in the database. Queries only; what their texts say is the cluster modules' own."""

from typing import Any

from sqlalchemy import Connection, insert, select, update

from catalog.errors import Misused
from deployer.errors import ClusterNotFound
from deployer.site.db.machines import parse_cursor
from deployer.site.db.nodes import prefix_condition
from deployer.site.db.tables import clusters
from deployer.site.model.principal import Principal
from deployer.site.model.records import ListFilter, SiteCluster


def insert_cluster(connection: Connection, cluster: SiteCluster) -> None:
    """A new one."""
    connection.execute(
        insert(clusters).values(
            uuid=cluster.uuid, owner=cluster.owner.identity, vo=cluster.owner.vo, **_changing(cluster)
        )
    )


def write_cluster(connection: Connection, cluster: SiteCluster) -> None:
    """A cluster as it is now."""
    connection.execute(update(clusters).where(clusters.c.uuid == cluster.uuid).values(_changing(cluster)))


def get_cluster(connection: Connection, uuid: str) -> SiteCluster:
    """A cluster; ClusterNotFound."""
    found = connection.execute(select(clusters.c.document).where(clusters.c.uuid == uuid)).scalar()
    if found is None:
        raise ClusterNotFound(f"no such cluster at this site: {uuid[:80]!r}")
    return SiteCluster.model_validate_json(found)


def find_cluster(connection: Connection, text: str, owner: Principal | None = None) -> SiteCluster:
    """The cluster that a UUID, the beginning of one, or the name of an active cluster means.

    Raises:
        ClusterNotFound: none.
        Misused: several.
    """
    whose = () if owner is None else (clusters.c.owner == owner.identity,)
    for condition in ((clusters.c.name == text, clusters.c.active.is_(True)), prefix_condition(clusters.c.uuid, text)):
        uuids = list(connection.execute(select(clusters.c.uuid).where(*condition, *whose).limit(2)).scalars())
        if len(uuids) > 1:
            raise Misused(f"{text[:80]!r} means several clusters; write a UUID, or more of one")
        if uuids:
            return get_cluster(connection, uuids[0])
    raise ClusterNotFound(f"no such cluster at this site: {text[:80]!r}")


def list_clusters(
    connection: Connection,
    which: ListFilter = ListFilter(),
    limit: int = 100,
    after: str | None = None,
    *,
    active: bool | None = None,
) -> tuple[tuple[SiteCluster, ...], str | None]:
    """Up to `limit` clusters (by owner, VO, cluster), the last made first; and, if there are more, what to go on from."""
    query = select(clusters.c.sequence, clusters.c.document)
    if which.owner is not None:
        query = query.where(clusters.c.owner == which.owner)
    if which.vo is not None:
        query = query.where(clusters.c.vo == which.vo)
    if which.cluster is not None:
        query = query.where(clusters.c.uuid == which.cluster)
    if active is not None:
        query = query.where(clusters.c.active.is_(active))
    if after is not None:
        query = query.where(clusters.c.sequence < parse_cursor(after))
    rows = connection.execute(query.order_by(clusters.c.sequence.desc()).limit(limit + 1)).all()
    shown = rows[:limit]
    found = tuple(SiteCluster.model_validate_json(row.document) for row in shown)
    return found, str(shown[-1].sequence) if len(rows) > limit and shown else None


def _changing(cluster: SiteCluster) -> dict[str, Any]:
    return {"name": cluster.name, "active": cluster.active, "document": cluster.model_dump_json(exclude_none=True)}
