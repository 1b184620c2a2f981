"""Queries on sites, access rules and the catalog's own secrets.

Each function takes the connection of an open transaction. Only the digest of a site's secret is stored.
"""

import json
from collections.abc import Callable, Iterable
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from catalog.access.rules import AccessRule, AccessRules, ImageScope, RegisteredSite
from catalog.db.tables import contents, image_contents, images, restrictions, secrets, sites
from catalog.errors import Conflict
from catalog.image.address import Address

_SCOPES = select(images.c.vo, images.c.name, images.c.version)


def register_site(connection: Connection, site: RegisteredSite, digest: str, now: datetime, *, renew: bool) -> None:
    """Register a site; `renew` replaces the credential and VOs of a registered one, which is a Conflict otherwise."""
    known = connection.execute(select(sites.c.name).where(sites.c.name == site.name)).first() is not None
    if known and not renew:
        raise Conflict(f"the site {site.name} is already registered; --renew replaces its credential")
    row = {"vos": _list(site.vos), "digest": digest, "registered": now}
    connection.execute(
        upsert(sites).values(row | {"name": site.name}).on_conflict_do_update(index_elements=["name"], set_=row)
    )


def remove_site(connection: Connection, name: str) -> bool:
    """Delete a site and its credential; returns whether it was registered. Rules that name it stay."""
    return connection.execute(delete(sites).where(sites.c.name == name)).rowcount > 0


def list_sites(connection: Connection) -> list[tuple[RegisteredSite, datetime]]:
    """All sites, by name, with the time of their registration."""
    rows = connection.execute(select(sites).order_by(sites.c.name))
    return [(RegisteredSite(row.name, frozenset(json.loads(row.vos))), row.registered) for row in rows]


def restrict(connection: Connection, scope: ImageScope, rule: AccessRule, now: datetime) -> None:
    """Set the rule of a scope, replacing an earlier one."""
    keys = {"vo": scope.vo, "name": scope.name, "version": scope.version}
    changed = {"sites": _list(rule.sites), "for_vos": _list(rule.vos), "since": now}
    connection.execute(
        upsert(restrictions)
        .values(keys | changed)
        .on_conflict_do_update(index_elements=["vo", "name", "version"], set_=changed)
    )


def unrestrict(connection: Connection, scope: ImageScope) -> bool:
    """Delete the rule of a scope; returns whether there was one."""
    columns = restrictions.c
    deleted = connection.execute(
        delete(restrictions).where(columns.vo == scope.vo, columns.name == scope.name, columns.version == scope.version)
    )
    return deleted.rowcount > 0


def load_rules(connection: Connection) -> tuple[AccessRules, dict[str, str]]:
    """All sites and rules, and the digest of each site's secret."""
    known, digests = {}, {}
    for row in connection.execute(select(sites)):
        known[row.name] = RegisteredSite(row.name, frozenset(json.loads(row.vos)))
        digests[row.name] = row.digest
    rules = {
        ImageScope(row.vo, row.name, row.version): AccessRule(
            frozenset(json.loads(row.sites)), frozenset(json.loads(row.for_vos))
        )
        for row in connection.execute(select(restrictions))
    }
    return AccessRules(known, rules), digests


def image_scope(connection: Connection, image_id: str) -> ImageScope | None:
    """The VO, name and version of a published image; None for an unpublished one."""
    row = connection.execute(_SCOPES.where(images.c.image_id == image_id)).first()
    return None if row is None else ImageScope(*row)


def scopes_with(connection: Connection, address: Address) -> list[ImageScope]:
    """The VO, name and version of every published image with a content that is stored here."""
    query = (
        _SCOPES.join(image_contents, image_contents.c.image_id == images.c.image_id)
        .join(contents, contents.c.address == image_contents.c.address)
        .where(image_contents.c.address == address)
    )
    return [ImageScope(*row) for row in connection.execute(query)]


def served_contents(connection: Connection) -> Iterable[Address]:
    """Every content that is stored here and belongs to a published image."""
    query = (
        select(contents.c.address)
        .join(image_contents, image_contents.c.address == contents.c.address)
        .join(images, images.c.image_id == image_contents.c.image_id)
        .distinct()
    )
    return list(connection.execute(query).scalars())


def load_secret(connection: Connection, name: str, make: Callable[[], bytes]) -> bytes:
    """One of the catalog's own secrets, made on first use in this (writing) transaction."""
    found = connection.execute(select(secrets.c.value).where(secrets.c.name == name)).scalar()
    if found is None:
        found = make()
        connection.execute(insert(secrets).values(name=name, value=found))
    return bytes(found)


def _list(names: Iterable[str]) -> str:
    return json.dumps(sorted(names))
